// AVX-512 F, BW, DQ and VL.
#include "cpu/kernels.h"
#ifdef LKCA_CPU_X86
#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#define LKCA_TARGET "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,prfchw"
// clang-format off: the target before all code, then Vec, on which the kernels are written
#include "cpu/target_begin.h"
#include "cpu/vec_avx512.h"
#include "cpu/kernels_impl.h"
// clang-format on

LKCA_KERNEL_TABLE(kernels_avx512)
#include "cpu/target_end.h"
#endif
