// Driver of pixel_shuffle_epilogue.
#include "cpu/operators.h"

namespace lkca::cpu {
namespace {

using torch::headeronly::ScalarType;

// Checks a call and fills what forward and backward share; shapes of LR and HR images come back beside it.
Epilogue check_call(const Tensor& y, const OptionalTensor& gate, const OptionalTensor& skip, int64_t scale, Shape* low,
                    Shape* high) {
  STD_TORCH_CHECK(y.dim() == 4, "y: expected (B, C*s^2, h, w), got ", y.dim(), " dimensions");
  STD_TORCH_CHECK(y.is_cpu(), "y: expected a CPU tensor");
  check_scale(scale, y.size(1), "y");
  Epilogue a{};
  a.dtype = storage_dtype(y, "y");
  a.batch = y.size(0), a.channels = y.size(1) / (scale * scale), a.height = y.size(2), a.width = y.size(3);
  a.scale = static_cast<int>(scale);
  *low = {a.batch, a.channels, a.height, a.width};
  *high = {a.batch, a.channels, a.height * scale, a.width * scale};
  if (gate) check(*gate, "gate", {a.batch, a.channels}, y.scalar_type());
  a.skip_kind = skip_kind(skip, *low, *high, y.scalar_type());
  a.y = y.const_data_ptr();
  copy_strides(y, a.y_stride);
  return a;
}

}  // namespace

Tensor pixel_shuffle_epilogue_fwd(Tensor y, OptionalTensor gate, OptionalTensor skip, int64_t scale, int64_t bicubic,
                                  OptionalTensor out) {
  Shape low, high;
  Epilogue a = check_call(y, gate, skip, scale, &low, &high);
  const Bicubic convention = bicubic_convention(bicubic);
  const Tensor result = output_of(out, high, y.scalar_type());
  if (result.numel() == 0) return result;
  if (skip) skip = dense(*skip);
  const std::vector<float> gates = floats_of(gate);
  const std::vector<BicubicTaps> taps = bicubic_table(scale, convention);
  a.gate = gate ? gates.data() : nullptr;
  a.skip = skip ? skip->const_data_ptr() : nullptr;
  a.bicubic = {a.scale, convention, taps.data()};
  a.out = result.mutable_data_ptr();
  const Kernels& k = kernels();
  parallel_tasks(a.batch * a.channels * a.height, a.width * scale * scale, [&](int64_t begin, int64_t end) {
    const Scratch scratch(k.epilogue_scratch(a));
    k.epilogue_fwd(a, begin, end, scratch.data());
  });
  return result;
}

std::tuple<OptionalTensor, OptionalTensor, OptionalTensor> pixel_shuffle_epilogue_bwd(Tensor grad_out, Tensor y,
                                                                                      OptionalTensor gate,
                                                                                      OptionalTensor skip,
                                                                                      int64_t scale, int64_t bicubic,
                                                                                      int64_t needs) {
  Shape low, high;
  Epilogue a = check_call(y, gate, skip, scale, &low, &high);
  const Bicubic convention = bicubic_convention(bicubic);
  check(grad_out, "grad_out", high, y.scalar_type());
  const auto wanted = [&](int bit) { return (needs >> bit & 1) != 0; };
  STD_TORCH_CHECK(!wanted(1) || gate, "needs: asks for the gradient of an absent gate");
  STD_TORCH_CHECK(!wanted(2) || a.skip_kind == Skip::low,
                  "needs: only a low-resolution skip has a gradient of its own");
  grad_out = dense(grad_out);
  OptionalTensor grad_y, grad_gate, grad_skip;
  if (wanted(0)) grad_y = empty_as(y);
  if (wanted(0) || wanted(1)) {
    const std::vector<float> gates = floats_of(gate);
    a.gate = gate ? gates.data() : nullptr;
    a.grad_out = grad_out.const_data_ptr();
    if (grad_y) {
      a.grad_y = grad_y->mutable_data_ptr();
      copy_strides(*grad_y, a.grad_y_stride);
    }
    const int64_t images = a.batch * a.channels;
    const int64_t rows = grad_out.numel() ? a.height : 0;
    const Scratch partial_gate(wanted(1) ? images * rows : 0);
    a.partial_gate = wanted(1) ? partial_gate.data() : nullptr;
    const Kernels& k = kernels();
    parallel_tasks(images * rows, a.width * scale * scale, [&](int64_t begin, int64_t end) {
      const Scratch scratch(k.epilogue_scratch(a));
      k.epilogue_bwd(a, begin, end, scratch.data());
    });
    if (wanted(1))
      grad_gate =
          tensor_of(sum_slices(a.partial_gate, rows, 1, images, 1, rows), {a.batch, a.channels}, y.scalar_type());
  }
  if (wanted(2)) grad_skip = bicubic_skip_grad(grad_out, *skip, scale, convention);
  return {grad_y, grad_gate, grad_skip};
}

}  // namespace lkca::cpu
