// The table of one variant. Included last by kernels_<isa>.cpp, which names it.
#pragma once

#include "cpu/channel.h"
#include "cpu/lowrank_bwd.h"
#include "cpu/lowrank_fwd.h"
#include "cpu/shuffle.h"

#define LKCA_KERNEL_TABLE(variable, label)                                                                            \
  namespace lkca::cpu {                                                                                               \
  const Kernels variable = {label,           N,                   lowrank_packed_weight_floats,                       \
                            lowrank_packed_row_floats,            lowrank_fwd_tasks, lowrank_fwd_scratch,             \
                            lowrank_pack_weight,                  lowrank_pack_rows, lowrank_fwd,                     \
                            lowrank_bwd_scratch,                  lowrank_bwd,       shuffle_scratch,                 \
                            shuffle_fwd,     shuffle_bwd,         bicubic_bwd_scratch, bicubic_bwd,                   \
                            channel_sum,     channel_apply};                                                          \
  }
