// Driver of local_channel_attention: packs the weights, cuts the image, adds the partial sums of the weights'
// gradients.
#include <algorithm>
#include <cmath>
#include <limits>

#include "cpu/strips.h"

namespace lkca::cpu {
namespace {

using torch::headeronly::ScalarType;
constexpr int64_t kWindowEnd = int64_t{1} << 20;

LocalAttention check_call(const Tensor& x, const Tensor& w1, const Tensor& w2, const OptionalTensor& residual,
                          int64_t window) {
  STD_TORCH_CHECK(w1.dim() == 2, "w1: expected (Cr, C), got ", w1.dim(), " dimensions");
  STD_TORCH_CHECK(window > 0 && window < kWindowEnd && window % 2 == 1, "window: expected an odd number from 1 to ",
                  kWindowEnd - 1, ", got ", window);
  LocalAttention a{};
  set_image(a, x, residual);
  a.hidden = w1.size(0);
  check(w1, "w1", {a.hidden, a.channels}, x.scalar_type());
  check(w2, "w2", {a.channels, a.hidden}, x.scalar_type());
  // A window wider than the image is one that reaches all of it.
  a.reach_y = std::clamp<int64_t>(a.height - 1, 0, window / 2);
  a.reach_x = std::clamp<int64_t>(a.width - 1, 0, window / 2);
  a.strip = std::max(kStrip, 2 * a.reach_x + 1);  // halos stay below twice the work
  a.slice_rows = std::max(kSliceRows, 2 * a.reach_y + 1);
  a.eps = std::sqrt(std::numeric_limits<float>::min());
  a.fields = whole_vectors(a.hidden + 1), a.lanes = whole_vectors(a.channels);
  return a;
}

// The two layers as fields of a pixel, the mean over the channels beside the hidden ones, and both transposed.
struct Weights {
  std::vector<float> w1, w2, w1_back, w2_back;

  Weights(LocalAttention& a, const Tensor& first, const Tensor& second, bool backward) {
    const std::vector<float> one = floats_of(first), two = floats_of(second);
    const float share = 1 / static_cast<float>(a.channels);
    w1 = packed(one, a.hidden, a.channels, true, a.fields);
    for (int64_t c = 0; c < a.channels; ++c) w1[c * a.fields + a.hidden] = share;
    w2 = packed(two, a.channels, a.hidden, true, a.lanes);
    a.w1 = w1.data(), a.w2 = w2.data();
    if (!backward) return;
    w1_back = packed(one, a.hidden, a.channels, false, a.lanes, 1);
    std::fill_n(w1_back.data() + a.hidden * a.lanes, a.channels, share);
    w2_back = packed(two, a.channels, a.hidden, false, a.fields);
    a.w1_back = w1_back.data(), a.w2_back = w2_back.data();
  }
};

int64_t pixel_operations(const LocalAttention& a) {
  return a.channels * a.fields + a.hidden * a.lanes + 2 * (a.reach_x + a.reach_y) * a.fields + 30 * a.lanes;
}

}  // namespace

Tensor local_channel_attention_fwd(Tensor x, Tensor w1, Tensor w2, OptionalTensor residual, int64_t window,
                                   OptionalTensor out) {
  LocalAttention a = check_call(x, w1, w2, residual, window);
  const Tensor result = output_like(out, x);
  if (result.numel() == 0) return result;
  const Weights weights(a, w1, w2, false);
  set_result(a, result);
  const auto consecutive = [&](const int64_t (&stride)[4]) {
    return stride[3] == 1 && (stride[1] != 1 || a.channels == 1);
  };
  a.planar = consecutive(a.x_stride) && consecutive(a.out_stride) && (!residual || consecutive(a.residual_stride));
  const Kernels& k = kernels();
  const int64_t operations = std::min(a.strip, a.width) * pixel_operations(a) / 16;
  parallel_rows(a, operations, [&](int64_t begin, int64_t end) {
    const Scratch scratch(k.local_scratch(a));
    k.local_fwd(a, begin, end, scratch.data());
  });
  return result;
}

std::tuple<OptionalTensor, OptionalTensor, OptionalTensor> local_channel_attention_bwd(Tensor grad_out, Tensor x,
                                                                                       Tensor w1, Tensor w2,
                                                                                       int64_t window, int64_t needs) {
  LocalAttention a = check_call(x, w1, w2, std::nullopt, window);
  const Weights weights(a, w1, w2, true);
  OptionalTensor grad_x, grad_w1, grad_w2;
  if (needs & 1) grad_x = empty_as(x);
  set_gradients(a, x, grad_out, grad_x);
  const int64_t slices = slices_of(a);
  const int64_t floats = (a.hidden + 7) / 8 * 8 * a.lanes, partial_floats = slices * floats;
  const Scratch partial_w1(needs & 2 ? partial_floats : 1), partial_w2(needs & 4 ? partial_floats : 1);
  if (needs & 2) a.partial_w1 = partial_w1.data();
  if (needs & 4) a.partial_w2 = partial_w2.data();
  const Kernels& k = kernels();
  const int64_t pixels = std::min(a.strip, a.width) * std::min(a.slice_rows, a.height);
  parallel_tasks(needs & 7 ? slices : 0, pixels * pixel_operations(a) / 4, [&](int64_t begin, int64_t end) {
    const Scratch scratch(k.local_scratch(a));
    k.local_bwd(a, begin, end, scratch.data());
  });
  const auto layer = [&](const Scratch& partial, bool transposed) {
    return sum_slices(partial.data(), slices, floats, a.hidden, a.channels, a.lanes, transposed);
  };
  if (needs & 2) grad_w1 = tensor_of(layer(partial_w1, false), {a.hidden, a.channels}, x.scalar_type());
  if (needs & 4) grad_w2 = tensor_of(layer(partial_w2, true), {a.channels, a.hidden}, x.scalar_type());
  return {grad_x, grad_w1, grad_w2};
}

}  // namespace lkca::cpu
