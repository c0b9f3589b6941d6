// AVX2 with FMA and F16C.
#include "cpu/kernels.h"
#ifdef LKCA_CPU_X86
#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#define LKCA_TARGET "avx2,fma,f16c"
// clang-format off: the target before all code, then Vec, on which the kernels are written
#include "cpu/target_begin.h"
#include "cpu/vec_avx2.h"
#include "cpu/kernels_impl.h"
// clang-format on

LKCA_KERNEL_TABLE(kernels_avx2)
#include "cpu/target_end.h"
#endif
