// Plain C++ for any processor.
// clang-format off: the target before all code, then Vec, on which the kernels are written
#include "cpu/vec_generic.h"
#include "cpu/kernels_impl.h"
// clang-format on

LKCA_KERNEL_TABLE(kernels_generic)
