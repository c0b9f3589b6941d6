// bf16 dot products (AVX512_BF16) for the forwards that multiply matrices; everything else is kernels_avx512.cpp.
#include "cpu/kernels.h"
#ifdef LKCA_CPU_X86
#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#define LKCA_TARGET "avx512bf16,avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,prfchw"
#define LKCA_BF16_DOT
// clang-format off: the target before all code, then Vec, on which the kernels are written
#include "cpu/target_begin.h"
#include "cpu/vec_avx512.h"
#include "cpu/kernels_common.h"
#include "cpu/large_kernel_fwd.h"
#include "cpu/lowrank_fwd.h"
// clang-format on

namespace lkca::cpu {
const LowRankFwdTable lowrank_fwd_avx512_bf16 = LKCA_LOWRANK_FWD_TABLE;
const LargeKernelFwdTable large_kernel_fwd_avx512_bf16 = LKCA_LARGE_KERNEL_FWD_TABLE;
}  // namespace lkca::cpu
#include "cpu/target_end.h"
#endif
