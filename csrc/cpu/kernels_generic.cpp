// Plain C++ for any processor.
#include "cpu/vec_generic.h"
// Vec first: the kernels are written on it.
#include "cpu/kernels_impl.h"

LKCA_KERNEL_TABLE(kernels_generic)
