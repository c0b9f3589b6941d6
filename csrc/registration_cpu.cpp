// The one place where the C++ operators meet the dispatcher (namespace lkca_cpu). Called by lkca_kernels/cpu.py.
#include "cpu/operators.h"

namespace {

// What exported programs call (lkca_kernels/exporting.py): without `out`, so that nothing aliases.
using lkca::cpu::OptionalTensor;
using lkca::cpu::Tensor;

Tensor lowrank_pixel_shuffle(Tensor z, Tensor weight, OptionalTensor bias, OptionalTensor gate, OptionalTensor skip,
                             int64_t scale, int64_t bicubic) {
  return lkca::cpu::lowrank_pixel_shuffle_fwd(z, weight, bias, gate, skip, scale, bicubic, std::nullopt);
}

Tensor pixel_shuffle_epilogue(Tensor y, OptionalTensor gate, OptionalTensor skip, int64_t scale, int64_t bicubic) {
  return lkca::cpu::pixel_shuffle_epilogue_fwd(y, gate, skip, scale, bicubic, std::nullopt);
}

std::tuple<Tensor, Tensor> channel_attention(Tensor x, Tensor w1, Tensor b1, Tensor w2, Tensor b2,
                                             OptionalTensor residual) {
  return lkca::cpu::channel_attention_fwd(x, w1, b1, w2, b2, residual, std::nullopt);
}

Tensor local_channel_attention(Tensor x, Tensor w1, Tensor w2, OptionalTensor residual, int64_t window) {
  return lkca::cpu::local_channel_attention_fwd(x, w1, w2, residual, window, std::nullopt);
}

Tensor large_kernel_branch(Tensor x, Tensor depthwise, Tensor expand, Tensor contract, OptionalTensor residual) {
  return lkca::cpu::large_kernel_branch_fwd(x, depthwise, expand, contract, residual, std::nullopt);
}

}  // namespace

// skip_bicubic: 0 matlab, 1 torch. needs: bit k asks for the gradient of the k-th tensor input.
STABLE_TORCH_LIBRARY(lkca_cpu, m) {
  m.def(
      "lowrank_pixel_shuffle_fwd(Tensor z, Tensor weight, Tensor? bias, Tensor? gate, Tensor? skip, "
      "int upscale_factor, int skip_bicubic, Tensor(a!)? out) -> Tensor(a!)");
  m.def(
      "lowrank_pixel_shuffle_bwd(Tensor grad_out, Tensor z, Tensor weight, Tensor? bias, Tensor? gate, Tensor? skip, "
      "int upscale_factor, int skip_bicubic, int needs) -> (Tensor?, Tensor?, Tensor?, Tensor?, Tensor?)");
  m.def(
      "lowrank_pixel_shuffle_stored(Tensor z, Tensor weight, Tensor? bias, Tensor? skip, Tensor? least, Tensor gain, "
      "int upscale_factor, int skip_bicubic, int first, int last, Tensor(a!) out) -> Tensor");
  m.def(
      "pixel_shuffle_epilogue_fwd(Tensor y, Tensor? gate, Tensor? skip, int upscale_factor, int skip_bicubic, "
      "Tensor(a!)? out) -> Tensor(a!)");
  m.def(
      "pixel_shuffle_epilogue_bwd(Tensor grad_out, Tensor y, Tensor? gate, Tensor? skip, int upscale_factor, "
      "int skip_bicubic, int needs) -> (Tensor?, Tensor?, Tensor?)");
  m.def("channel_gate_fwd(Tensor x, Tensor w1, Tensor b1, Tensor w2, Tensor b2) -> (Tensor, Tensor)");
  m.def(
      "channel_gate_bwd(Tensor grad_gate, Tensor x, Tensor mean, Tensor w1, Tensor b1, Tensor w2, Tensor b2, "
      "int needs) -> (Tensor?, Tensor?, Tensor?, Tensor?, Tensor?)");
  m.def(
      "channel_attention_fwd(Tensor x, Tensor w1, Tensor b1, Tensor w2, Tensor b2, Tensor? residual, Tensor(a!)? out) "
      "-> (Tensor(a!), Tensor)");
  m.def(
      "channel_attention_bwd(Tensor grad_out, Tensor x, Tensor mean, Tensor w1, Tensor b1, Tensor w2, Tensor b2, "
      "int needs) -> (Tensor?, Tensor?, Tensor?, Tensor?, Tensor?)");
  m.def(
      "local_channel_attention_fwd(Tensor x, Tensor w1, Tensor w2, Tensor? residual, int window, Tensor(a!)? out) "
      "-> Tensor(a!)");
  m.def(
      "local_channel_attention_bwd(Tensor grad_out, Tensor x, Tensor w1, Tensor w2, int window, int needs) "
      "-> (Tensor?, Tensor?, Tensor?)");
  m.def(
      "large_kernel_branch_fwd(Tensor x, Tensor depthwise, Tensor expand, Tensor contract, Tensor? residual, "
      "Tensor(a!)? out) -> Tensor(a!)");
  m.def(
      "large_kernel_branch_bwd(Tensor grad_out, Tensor x, Tensor depthwise, Tensor expand, Tensor contract, int needs) "
      "-> (Tensor?, Tensor?, Tensor?, Tensor?)");
  m.def(
      "lowrank_pixel_shuffle(Tensor z, Tensor weight, Tensor? bias, Tensor? gate, Tensor? skip, int upscale_factor, "
      "int skip_bicubic) -> Tensor");
  m.def("pixel_shuffle_epilogue(Tensor y, Tensor? gate, Tensor? skip, int upscale_factor, int skip_bicubic) -> Tensor");
  m.def(
      "channel_attention(Tensor x, Tensor w1, Tensor b1, Tensor w2, Tensor b2, Tensor? residual) -> (Tensor, Tensor)");
  m.def("local_channel_attention(Tensor x, Tensor w1, Tensor w2, Tensor? residual, int window) -> Tensor");
  m.def("large_kernel_branch(Tensor x, Tensor depthwise, Tensor expand, Tensor contract, Tensor? residual) -> Tensor");
  m.def("isa() -> str");
  m.def("available_isas() -> str");
  m.def("use_isa(str name) -> str");
  m.def("huge_pages() -> str");
  m.def("use_huge_pages(str setting) -> str");
}

STABLE_TORCH_LIBRARY_IMPL(lkca_cpu, CPU, m) {
  using namespace lkca::cpu;
  m.impl("lowrank_pixel_shuffle_fwd", TORCH_BOX(&lowrank_pixel_shuffle_fwd));
  m.impl("lowrank_pixel_shuffle_bwd", TORCH_BOX(&lowrank_pixel_shuffle_bwd));
  m.impl("lowrank_pixel_shuffle_stored", TORCH_BOX(&lowrank_pixel_shuffle_stored));
  m.impl("pixel_shuffle_epilogue_fwd", TORCH_BOX(&pixel_shuffle_epilogue_fwd));
  m.impl("pixel_shuffle_epilogue_bwd", TORCH_BOX(&pixel_shuffle_epilogue_bwd));
  m.impl("channel_gate_fwd", TORCH_BOX(&channel_gate_fwd));
  m.impl("channel_gate_bwd", TORCH_BOX(&channel_gate_bwd));
  m.impl("channel_attention_fwd", TORCH_BOX(&channel_attention_fwd));
  m.impl("channel_attention_bwd", TORCH_BOX(&channel_attention_bwd));
  m.impl("local_channel_attention_fwd", TORCH_BOX(&local_channel_attention_fwd));
  m.impl("local_channel_attention_bwd", TORCH_BOX(&local_channel_attention_bwd));
  m.impl("large_kernel_branch_fwd", TORCH_BOX(&large_kernel_branch_fwd));
  m.impl("large_kernel_branch_bwd", TORCH_BOX(&large_kernel_branch_bwd));
  m.impl("lowrank_pixel_shuffle", TORCH_BOX(&lowrank_pixel_shuffle));
  m.impl("pixel_shuffle_epilogue", TORCH_BOX(&pixel_shuffle_epilogue));
  m.impl("channel_attention", TORCH_BOX(&channel_attention));
  m.impl("local_channel_attention", TORCH_BOX(&local_channel_attention));
  m.impl("large_kernel_branch", TORCH_BOX(&large_kernel_branch));
}

STABLE_TORCH_LIBRARY_IMPL(lkca_cpu, CompositeExplicitAutograd, m) {
  using namespace lkca::cpu;
  m.impl("isa", TORCH_BOX(&isa));
  m.impl("available_isas", TORCH_BOX(&available_isas));
  m.impl("use_isa", TORCH_BOX(&use_isa));
  m.impl("huge_pages", TORCH_BOX(&huge_pages));
  m.impl("use_huge_pages", TORCH_BOX(&use_huge_pages));
}
