// The table of one variant. Included last by kernels_<isa>.cpp, which names it.
#pragma once

#include "cpu/bicubic.h"
#include "cpu/channel.h"
#include "cpu/epilogue.h"
#include "cpu/large_kernel_bwd.h"
#include "cpu/large_kernel_fwd.h"
#include "cpu/local_attention.h"
#include "cpu/lowrank_bwd.h"
#include "cpu/lowrank_fwd.h"
#include "cpu/lowrank_stored.h"

#define LKCA_KERNEL_TABLE(variable)                      \
  namespace lkca::cpu {                                  \
  const Kernels variable = {N,                           \
                            LKCA_LOWRANK_FWD_TABLE,      \
                            lowrank_stored,              \
                            lowrank_bwd_scratch,         \
                            lowrank_bwd,                 \
                            epilogue_scratch,            \
                            epilogue_fwd,                \
                            epilogue_bwd,                \
                            bicubic_bwd_scratch,         \
                            bicubic_bwd,                 \
                            channel_sum,                 \
                            channel_apply,               \
                            local_scratch,               \
                            local_fwd,                   \
                            local_bwd,                   \
                            LKCA_LARGE_KERNEL_FWD_TABLE, \
                            large_kernel_bwd_scratch,    \
                            large_kernel_bwd};           \
  }
