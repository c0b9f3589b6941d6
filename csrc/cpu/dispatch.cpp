#include "cpu/dispatch.h"

#include <torch/headeronly/util/Exception.h>

#include <atomic>
#include <cstdlib>
#include <vector>

namespace lkca::cpu {
namespace {

std::vector<const Kernels*> available() {
  std::vector<const Kernels*> found;
#ifdef LKCA_CPU_X86
  __builtin_cpu_init();
  const bool avx2 =
      __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (avx512) found.push_back(&kernels_avx512);
  if (avx2) found.push_back(&kernels_avx2);
#endif
  found.push_back(&kernels_generic);
  return found;
}

const Kernels& find(const std::string& name) {
  const auto variants = available();
  if (name.empty() || name == "auto") return *variants.front();
  for (const Kernels* variant : variants)
    if (name == variant->name) return *variant;
  STD_TORCH_CHECK(false, "LKCA_CPU_ISA: this processor has no variant '", name, "', expected auto or one of ",
                  available_isas());
  return *variants.back();
}

std::atomic<const Kernels*> chosen{nullptr};

}  // namespace

std::string available_isas() {
  std::string names;
  for (const Kernels* variant : available()) names += (names.empty() ? "" : ", ") + std::string(variant->name);
  return names;
}

const Kernels& kernels() {
  const Kernels* variant = chosen.load(std::memory_order_acquire);
  if (variant == nullptr) {
    const char* name = std::getenv("LKCA_CPU_ISA");
    variant = &find(name == nullptr ? "" : name);
    chosen.store(variant, std::memory_order_release);
  }
  return *variant;
}

std::string use_isa(const std::string& name) {
  const std::string before = kernels().name;
  chosen.store(&find(name), std::memory_order_release);
  return before;
}

}  // namespace lkca::cpu
