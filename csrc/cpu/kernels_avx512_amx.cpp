// AMX tiles for the forward of lowrank_pixel_shuffle in bf16; everything else is kernels_avx512.cpp.
#include "cpu/kernels.h"
#ifdef LKCA_CPU_X86
#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#define LKCA_TARGET "amx-tile,amx-bf16,avx512bf16,avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,prfchw"
#define LKCA_BF16_DOT
// clang-format off: the target before all code, then Vec, on which the kernels are written
#include "cpu/target_begin.h"
#include "cpu/vec_avx512.h"
#include "cpu/tiles_amx.h"
#define LKCA_AMX
#include "cpu/kernels_common.h"
#include "cpu/lowrank_fwd.h"
// clang-format on

namespace lkca::cpu {
const LowRankFwdTable lowrank_fwd_avx512_amx = LKCA_LOWRANK_FWD_TABLE;
}
#include "cpu/target_end.h"
#endif
