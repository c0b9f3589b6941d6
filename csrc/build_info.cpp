// How the extensions were compiled: facts for `lkca doctor`, not operators.
#include <pybind11/pybind11.h>

#include <string>

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

}  // namespace

PYBIND11_MODULE(_build_info, m) {
  m.doc() = "How the lkca_kernels extensions were compiled";
  m.attr("compiler") = compiler();
  m.attr("torch_version") = LKCA_BUILD_TORCH;
}
