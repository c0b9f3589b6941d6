// The variant that serves this process: the best that processor and operating system offer, or LKCA_CPU_ISA.
#pragma once

#include <string>

#include "cpu/kernels.h"

namespace lkca::cpu {

const Kernels& kernels();

// Those of forwards that have versions of their own for bf16 on some processors.
const LowRankFwdTable& lowrank_fwd_kernels(DType dtype);
const LargeKernelFwdTable& large_kernel_fwd_kernels(DType dtype);

// Name of the variant in use. Throws where LKCA_CPU_ISA names none of this processor.
std::string isa();

// Names of the variants that can run here, best first.
std::string available_isas();

// Chooses a variant by name ("auto": the best) and returns the name of the previous one. For tests and benchmarks.
std::string use_isa(const std::string& name);

}  // namespace lkca::cpu
