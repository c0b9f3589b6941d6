#include "cpu/dispatch.h"

#include <torch/headeronly/util/Exception.h>

#include <atomic>
#include <cstdlib>
#include <vector>

#ifdef __linux__
#include <sys/syscall.h>
#include <unistd.h>
#endif
#ifdef LKCA_CPU_X86
#include <cpuid.h>
#endif

namespace lkca::cpu {
namespace {

struct Variant {
  const char* name;
  const Kernels* kernels;
  const LowRankFwdTable* lowrank_bf16;  // the forwards for bf16
  const LargeKernelFwdTable* large_kernel_bf16;
};

constexpr Variant kVariants[] = {
#ifdef LKCA_CPU_X86
    // Where there are tiles, dot products are slower than fp32 (docs/cpu_backend.md).
    {"avx512_amx", &kernels_avx512, &lowrank_fwd_avx512_amx, &kernels_avx512.large_kernel_fwd},
    {"avx512_bf16", &kernels_avx512, &lowrank_fwd_avx512_bf16, &large_kernel_fwd_avx512_bf16},
    {"avx512", &kernels_avx512, &kernels_avx512.lowrank_fwd, &kernels_avx512.large_kernel_fwd},
    {"avx2", &kernels_avx2, &kernels_avx2.lowrank_fwd, &kernels_avx2.large_kernel_fwd},
#endif
    {"generic", &kernels_generic, &kernels_generic.lowrank_fwd, &kernels_generic.large_kernel_fwd},
};

#ifdef LKCA_CPU_X86
// clang 14 knows no __builtin_cpu_supports("f16c").
bool f16c() {
  unsigned a, b, c, d;
  return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}

// Whether this process may use AMX tiles for bf16: Linux grants them to those that ask.
bool amx() {
#if defined(__linux__) && defined(SYS_arch_prctl)
  constexpr unsigned kTile = 1u << 24, kBf16 = 1u << 22;
  constexpr int kRequestPermission = 0x1023, kTileData = 18;
  unsigned a, b, c, d;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d & kTile) && (d & kBf16) &&
         syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}
#endif

// Best first. GCC's checks include those of the operating system's support for the registers.
std::vector<const Variant*> available() {
  std::vector<const Variant*> found;
  const Variant* next = kVariants;
#ifdef LKCA_CPU_X86
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && f16c();
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  const bool bf16 = avx512 && __builtin_cpu_supports("avx512bf16");
  for (const bool supported : {bf16 && amx(), bf16, avx512, avx2}) {
    if (supported) found.push_back(next);
    ++next;
  }
#endif
  found.push_back(next);
  return found;
}

const Variant& find(const std::string& name) {
  const auto variants = available();
  if (name.empty() || name == "auto") return *variants.front();
  for (const Variant* variant : variants)
    if (name == variant->name) return *variant;
  STD_TORCH_CHECK(false, "LKCA_CPU_ISA: this processor has no variant '", name, "', expected auto or one of ",
                  available_isas());
  return *variants.back();
}

std::atomic<const Variant*> chosen{nullptr};

const Variant& variant() {
  const Variant* v = chosen.load(std::memory_order_acquire);
  if (v == nullptr) {
    const char* name = std::getenv("LKCA_CPU_ISA");
    v = &find(name == nullptr ? "" : name);
    chosen.store(v, std::memory_order_release);
  }
  return *v;
}

}  // namespace

const Kernels& kernels() { return *variant().kernels; }

const LowRankFwdTable& lowrank_fwd_kernels(DType dtype) {
  const Variant& v = variant();
  return dtype == DType::bf16 ? *v.lowrank_bf16 : v.kernels->lowrank_fwd;
}

const LargeKernelFwdTable& large_kernel_fwd_kernels(DType dtype) {
  const Variant& v = variant();
  return dtype == DType::bf16 ? *v.large_kernel_bf16 : v.kernels->large_kernel_fwd;
}

std::string isa() { return variant().name; }

std::string available_isas() {
  std::string names;
  for (const Variant* v : available()) names += (names.empty() ? "" : ", ") + std::string(v->name);
  return names;
}

std::string use_isa(const std::string& name) {
  const std::string before = isa();
  chosen.store(&find(name), std::memory_order_release);
  return before;
}

}  // namespace lkca::cpu
