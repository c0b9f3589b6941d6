// How the extensions were compiled and what this processor offers: facts for `lkca doctor`, not operators.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <map>
#include <string>
#include <vector>

namespace py = pybind11;

namespace {

std::string compiler() {
#if defined(__clang__)
  return "clang " __clang_version__;
#elif defined(__GNUC__)
  return "gcc " __VERSION__;
#elif defined(_MSC_VER)
  return "msvc " + std::to_string(_MSC_VER);
#else
  return "unknown";
#endif
}

// Instruction sets that matter to the operators and that both the processor and the operating system offer.
std::vector<std::string> cpu_features() {
  std::vector<std::string> found;
#if (defined(__x86_64__) || defined(__i386__)) && defined(__GNUC__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2")) found.emplace_back("avx2");
  if (__builtin_cpu_supports("fma")) found.emplace_back("fma");
  if (__builtin_cpu_supports("avx512f")) found.emplace_back("avx512f");
  if (__builtin_cpu_supports("avx512bw")) found.emplace_back("avx512bw");
  if (__builtin_cpu_supports("avx512bf16")) found.emplace_back("avx512_bf16");
#endif
  return found;
}

}  // namespace

PYBIND11_MODULE(_build_info, m) {
  m.doc() = "How the lkca_kernels extensions were compiled";
  m.attr("compiler") = compiler();
  m.attr("cxx_standard") = static_cast<long>(__cplusplus);
  m.attr("torch_version") = LKCA_BUILD_TORCH;
  m.def("cpu_features", &cpu_features, "Instruction sets offered by this processor, of those the operators can use");
}
