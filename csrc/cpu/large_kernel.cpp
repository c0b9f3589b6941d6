// Driver of large_kernel_branch: packs the weights, cuts the image, adds the partial sums of the weights' gradients.
#include <algorithm>

#include "cpu/strips.h"

namespace lkca::cpu {
namespace {

using torch::headeronly::ScalarType;

Shape depthwise_shape(const LargeKernel& a) { return {a.channels, 1, a.kernel_y, a.kernel_x}; }

LargeKernel check_call(const Tensor& x, const Tensor& depthwise, const Tensor& expand, const Tensor& contract,
                       const OptionalTensor& residual) {
  STD_TORCH_CHECK(depthwise.dim() == 4, "depthwise: expected (C, 1, k, k), got ", depthwise.dim(), " dimensions");
  STD_TORCH_CHECK(expand.dim() == 2, "expand: expected (M, C), got ", expand.dim(), " dimensions");
  LargeKernel a{};
  set_image(a, x, residual);
  a.hidden = expand.size(0);
  a.kernel_y = depthwise.size(2), a.kernel_x = depthwise.size(3);
  STD_TORCH_CHECK(a.kernel_y % 2 == 1 && a.kernel_x % 2 == 1, "depthwise: expected odd sides, got ", a.kernel_y,
                  " and ", a.kernel_x);
  check(depthwise, "depthwise", depthwise_shape(a), x.scalar_type());
  check(expand, "expand", {a.hidden, a.channels}, x.scalar_type());
  check(contract, "contract", {a.channels, a.hidden}, x.scalar_type());
  a.lanes = whole_vectors(a.channels), a.fields = whole_vectors(a.hidden);
  a.strip = std::max(kStrip, a.kernel_x);  // halos stay below the work
  return a;
}

// The weights as the kernels read them.
struct Weights {
  std::vector<float> kernel, w1, w2, flipped, w1_back, w2_back;

  Weights(LargeKernel& a, const Tensor& depthwise, const Tensor& expand, const Tensor& contract, bool backward) {
    const int64_t taps = a.kernel_y * a.kernel_x;
    std::vector<float> large = floats_of(depthwise);
    const std::vector<float> one = floats_of(expand), two = floats_of(contract);
    kernel = packed(large, a.channels, taps, true, a.lanes);
    w1 = packed(one, a.hidden, a.channels, true, a.fields);
    w2 = packed(two, a.channels, a.hidden, true, a.lanes);
    a.depthwise = kernel.data(), a.w1 = w1.data(), a.w2 = w2.data();
    if (!backward) return;
    for (int64_t c = 0; c < a.channels; ++c) std::reverse(large.begin() + c * taps, large.begin() + (c + 1) * taps);
    flipped = packed(large, a.channels, taps, true, a.lanes);
    w1_back = packed(one, a.hidden, a.channels, false, a.lanes);
    w2_back = packed(two, a.channels, a.hidden, false, a.fields);
    a.flipped = flipped.data(), a.w1_back = w1_back.data(), a.w2_back = w2_back.data();
  }
};

int64_t pixel_operations(const LargeKernel& a) {
  return a.kernel_y * a.kernel_x * a.lanes + a.channels * a.fields + a.hidden * a.lanes;
}

}  // namespace

Tensor large_kernel_branch_fwd(Tensor x, Tensor depthwise, Tensor expand, Tensor contract, OptionalTensor residual,
                               OptionalTensor out) {
  LargeKernel a = check_call(x, depthwise, expand, contract, residual);
  const Tensor result = output_like(out, x);
  if (result.numel() == 0) return result;
  const Weights weights(a, depthwise, expand, contract, false);
  set_result(a, result);
  const LargeKernelFwdTable& k = large_kernel_fwd_kernels(a.dtype);
  const int64_t operations = std::min(a.strip, a.width) * pixel_operations(a) / 16;
  parallel_rows(a, operations, [&](int64_t begin, int64_t end) {
    const Scratch scratch(k.scratch(a));
    k.run(a, begin, end, scratch.data());
  });
  return result;
}

std::tuple<OptionalTensor, OptionalTensor, OptionalTensor, OptionalTensor> large_kernel_branch_bwd(
    Tensor grad_out, Tensor x, Tensor depthwise, Tensor expand, Tensor contract, int64_t needs) {
  LargeKernel a = check_call(x, depthwise, expand, contract, std::nullopt);
  const Weights weights(a, depthwise, expand, contract, true);
  OptionalTensor grad_x, grad_depthwise, grad_expand, grad_contract;
  if (needs & 1) grad_x = empty_as(x);
  set_gradients(a, x, grad_out, grad_x);
  a.slice_rows = std::max(kSliceRows, a.kernel_y);
  const int64_t slices = slices_of(a);
  const int64_t taps = a.kernel_y * a.kernel_x, kernel = taps * a.lanes, layer = a.fields * a.lanes;
  const Scratch partial_depthwise(needs & 2 ? slices * kernel : 1), partial_w1(needs & 4 ? slices * layer : 1),
      partial_w2(needs & 8 ? slices * layer : 1);
  if (needs & 2) a.partial_depthwise = partial_depthwise.data();
  if (needs & 4) a.partial_w1 = partial_w1.data();
  if (needs & 8) a.partial_w2 = partial_w2.data();
  const Kernels& k = kernels();
  const int64_t pixels = std::min(a.strip, a.width) * std::min(a.slice_rows, a.height);
  parallel_tasks(needs & 15 ? slices : 0, pixels * pixel_operations(a) / 4, [&](int64_t begin, int64_t end) {
    const Scratch scratch(k.large_kernel_bwd_scratch(a));
    k.large_kernel_bwd(a, begin, end, scratch.data());
  });
  const auto sum = [&](const Scratch& partial, int64_t rows, int64_t floats, bool transposed) {
    return sum_slices(partial.data(), slices, floats, rows, a.channels, a.lanes, transposed);
  };
  const ScalarType type = x.scalar_type();
  if (needs & 2) grad_depthwise = tensor_of(sum(partial_depthwise, taps, kernel, true), depthwise_shape(a), type);
  if (needs & 4) grad_expand = tensor_of(sum(partial_w1, a.hidden, layer, false), {a.hidden, a.channels}, type);
  if (needs & 8) grad_contract = tensor_of(sum(partial_w2, a.hidden, layer, true), {a.channels, a.hidden}, type);
  return {grad_x, grad_depthwise, grad_expand, grad_contract};
}

}  // namespace lkca::cpu
