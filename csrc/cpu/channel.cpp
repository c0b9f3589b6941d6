// Drivers of channel_gate and channel_attention: sums over pixels in fixed chunks, then a two-layer network on (B, C).
#include <algorithm>
#include <cmath>
#include <numeric>

#include "cpu/operators.h"

namespace lkca::cpu {
namespace {

using torch::headeronly::ScalarType;
using Floats = std::vector<float>;

constexpr int64_t kChunk = 16384;  // samples of one partial sum

// sigmoid(w2 . relu(w1 . mean + b1) + b2) in fp32, with what its backward needs.
struct Gate {
  int64_t batch, channels, hidden, pixels;
  Floats w1, b1, w2, b2;
  Floats active;  // (B, hidden), after relu
  Floats gate;    // (B, C)
};

Gate check_gate(const Tensor& x, const Tensor& w1, const Tensor& b1, const Tensor& w2, const Tensor& b2) {
  STD_TORCH_CHECK(x.dim() == 4, "x: expected (B, C, H, W), got ", x.dim(), " dimensions");
  STD_TORCH_CHECK(x.is_cpu(), "x: expected a CPU tensor");
  STD_TORCH_CHECK(w1.dim() == 2, "w1: expected (Cr, C), got ", w1.dim(), " dimensions");
  storage_dtype(x, "x");
  const ScalarType type = x.scalar_type();
  Gate g;
  g.batch = x.size(0), g.channels = x.size(1), g.hidden = w1.size(0), g.pixels = x.size(2) * x.size(3);
  check(w1, "w1", {g.hidden, g.channels}, type);
  check(b1, "b1", {g.hidden}, type);
  check(w2, "w2", {g.channels, g.hidden}, type);
  check(b2, "b2", {g.channels}, type);
  g.w1 = floats_of(w1), g.b1 = floats_of(b1), g.w2 = floats_of(w2), g.b2 = floats_of(b2);
  return g;
}

void run_gate(Gate& g, const float* mean) {
  g.active.resize(g.batch * g.hidden);
  g.gate.resize(g.batch * g.channels);
  for (int64_t b = 0; b < g.batch; ++b) {
    const float* m = mean + b * g.channels;
    float* h = g.active.data() + b * g.hidden;
    for (int64_t k = 0; k < g.hidden; ++k) {
      float sum = g.b1[k];
      for (int64_t c = 0; c < g.channels; ++c) sum += g.w1[k * g.channels + c] * m[c];
      h[k] = sum > 0 || std::isnan(sum) ? sum : 0;
    }
    for (int64_t c = 0; c < g.channels; ++c) {
      float sum = g.b2[c];
      for (int64_t k = 0; k < g.hidden; ++k) sum += g.w2[c * g.hidden + k] * h[k];
      g.gate[b * g.channels + c] = 1 / (1 + std::exp(-sum));
    }
  }
}

// Gradients of the gate's parameters and of the mean from that of the gate, (B, C).
struct GateGrads {
  Floats mean, w1, b1, w2, b2;
};

GateGrads backward_gate(const Gate& g, const float* mean, const float* grad_gate) {
  GateGrads d;
  d.mean.assign(g.batch * g.channels, 0);
  d.w1.assign(g.w1.size(), 0), d.b1.assign(g.b1.size(), 0);
  d.w2.assign(g.w2.size(), 0), d.b2.assign(g.b2.size(), 0);
  Floats hidden(g.hidden);
  for (int64_t b = 0; b < g.batch; ++b) {
    const float* h = g.active.data() + b * g.hidden;
    std::fill(hidden.begin(), hidden.end(), 0.f);
    for (int64_t c = 0; c < g.channels; ++c) {
      const float s = g.gate[b * g.channels + c];
      const float logit = grad_gate[b * g.channels + c] * s * (1 - s);
      d.b2[c] += logit;
      for (int64_t k = 0; k < g.hidden; ++k) {
        d.w2[c * g.hidden + k] += logit * h[k];
        hidden[k] += logit * g.w2[c * g.hidden + k];
      }
    }
    for (int64_t k = 0; k < g.hidden; ++k) {
      if (h[k] <= 0) continue;
      d.b1[k] += hidden[k];
      for (int64_t c = 0; c < g.channels; ++c) {
        d.w1[k * g.channels + c] += hidden[k] * mean[b * g.channels + c];
        d.mean[b * g.channels + c] += hidden[k] * g.w1[k * g.channels + c];
      }
    }
  }
  return d;
}

// x as (outer, pixels, inner) in its own layout; `x` must be dense in it.
ChannelArgs layout_of(const Tensor& x, bool channels_last) {
  ChannelArgs a{};
  a.dtype = storage_dtype(x, "x");
  a.pixels = x.size(2) * x.size(3);
  a.outer = channels_last ? x.size(0) : x.size(0) * x.size(1);
  a.inner = channels_last ? x.size(1) : 1;
  a.chunk_pixels = std::max<int64_t>(1, kChunk / std::max<int64_t>(1, a.inner));
  a.chunks = (a.pixels + a.chunk_pixels - 1) / a.chunk_pixels;
  return a;
}

// Sum over pixels of x, or of x * y, as (B, C); chunks are added in order.
Floats sum_pixels(const Tensor& x, const Tensor* y, bool channels_last) {
  ChannelArgs a = layout_of(x, channels_last);
  a.x = x.const_data_ptr();
  a.y = y ? y->const_data_ptr() : nullptr;
  const Scratch partial(a.outer * a.chunks * a.inner);
  a.partial = partial.data();
  const Kernels& k = kernels();
  parallel_tasks(a.outer * a.chunks, std::min(a.pixels, a.chunk_pixels) * a.inner / 4,
                 [&](int64_t begin, int64_t end) { k.channel_sum(a, begin, end); });
  return sum_slices(a.partial, a.chunks, a.inner, a.outer, a.inner, a.chunks * a.inner);
}

// What is given for each channel of each image, repeated for `pixels` of them.
Floats repeated(const Floats& values, int64_t inner, int64_t pixels) {
  Floats out;
  out.reserve(values.size() * pixels);
  for (size_t first = 0; first < values.size(); first += inner)
    for (int64_t p = 0; p < pixels; ++p) out.insert(out.end(), values.begin() + first, values.begin() + first + inner);
  return out;
}

// How many pixels of channels_last tensors are worked on as one: parts of vectors are stored float by float.
int64_t pixels_at_once(const ChannelArgs& a) {
  constexpr int64_t kMostChannels = 512, kFloats = 128;
  if (a.inner <= 1 || a.inner > kMostChannels) return 1;
  int64_t pixels = kernels().lanes / std::gcd(kernels().lanes, a.inner);
  while (pixels * a.inner < kFloats) pixels *= 2;
  return std::min(pixels, a.chunk_pixels);
}

// out = x * scale + shift + addend, each optional, per image and channel.
void apply(const Tensor* x, const Floats* scale, const Floats* shift, const Tensor* addend, const Tensor& out,
           bool channels_last) {
  ChannelArgs a = layout_of(out, channels_last);
  a.x = x ? x->const_data_ptr() : nullptr;
  const int64_t pixels = pixels_at_once(a);
  a.period = a.inner * pixels;
  const Floats scales = scale ? repeated(*scale, a.inner, pixels) : Floats();
  const Floats shifts = shift ? repeated(*shift, a.inner, pixels) : Floats();
  a.scale = scale ? scales.data() : nullptr;
  a.shift = shift ? shifts.data() : nullptr;
  a.addend = addend ? addend->const_data_ptr() : nullptr;
  a.out = out.mutable_data_ptr();
  const Kernels& k = kernels();
  parallel_tasks(out.numel() ? a.outer * a.chunks : 0, std::min(a.pixels, a.chunk_pixels) * a.inner / 4,
                 [&](int64_t begin, int64_t end) { k.channel_apply(a, begin, end); });
}

Floats mean_pixels(const Tensor& x, bool channels_last) {
  Floats mean = sum_pixels(x, nullptr, channels_last);
  const float pixels = static_cast<float>(x.size(2) * x.size(3));
  for (float& m : mean) m /= pixels;
  return mean;
}

using FiveGrads = std::tuple<OptionalTensor, OptionalTensor, OptionalTensor, OptionalTensor, OptionalTensor>;

// Hands the gradients over; grad_x = grad_out * gate + grad_mean / pixels (without grad_out: the second term).
FiveGrads finish_backward(const Gate& g, const GateGrads& d, const Tensor& x, const Tensor* grad_out,
                          bool channels_last, int64_t needs) {
  const ScalarType type = x.scalar_type();
  FiveGrads grads;
  if (needs & 1) {
    Floats shift = d.mean;
    for (float& v : shift) v /= static_cast<float>(g.pixels);
    const Tensor grad_x = empty_as(x);
    apply(grad_out, grad_out ? &g.gate : nullptr, &shift, nullptr, grad_x, channels_last);
    std::get<0>(grads) = grad_x;
  }
  if (needs & 2) std::get<1>(grads) = tensor_of(d.w1, {g.hidden, g.channels}, type);
  if (needs & 4) std::get<2>(grads) = tensor_of(d.b1, {g.hidden}, type);
  if (needs & 8) std::get<3>(grads) = tensor_of(d.w2, {g.channels, g.hidden}, type);
  if (needs & 16) std::get<4>(grads) = tensor_of(d.b2, {g.channels}, type);
  return grads;
}

}  // namespace

std::tuple<Tensor, Tensor> channel_gate_fwd(Tensor x, Tensor w1, Tensor b1, Tensor w2, Tensor b2) {
  Gate g = check_gate(x, w1, b1, w2, b2);
  const bool channels_last = is_channels_last(x);
  const Floats mean = mean_pixels(dense(x, channels_last), channels_last);
  run_gate(g, mean.data());
  const Shape shape = {g.batch, g.channels};
  return {tensor_of(g.gate, shape, x.scalar_type()), tensor_of(mean, shape, ScalarType::Float)};
}

FiveGrads channel_gate_bwd(Tensor grad_gate, Tensor x, Tensor mean, Tensor w1, Tensor b1, Tensor w2, Tensor b2,
                           int64_t needs) {
  Gate g = check_gate(x, w1, b1, w2, b2);
  check(grad_gate, "grad_gate", {g.batch, g.channels}, x.scalar_type());
  check(mean, "mean", {g.batch, g.channels}, ScalarType::Float);
  const Floats m = floats_of(mean), grad = floats_of(grad_gate);
  run_gate(g, m.data());
  return finish_backward(g, backward_gate(g, m.data(), grad.data()), x, nullptr, is_channels_last(x), needs);
}

std::tuple<Tensor, Tensor> channel_attention_fwd(Tensor x, Tensor w1, Tensor b1, Tensor w2, Tensor b2,
                                                 OptionalTensor residual, OptionalTensor out) {
  Gate g = check_gate(x, w1, b1, w2, b2);
  if (residual) check(*residual, "residual", shape_of(x), x.scalar_type());
  const bool channels_last = is_channels_last(x);
  const Tensor result = output_like(out, x);
  x = dense(x, channels_last);
  if (residual) residual = dense(*residual, channels_last);
  const Floats mean = mean_pixels(x, channels_last);
  run_gate(g, mean.data());
  apply(&x, &g.gate, nullptr, residual ? &*residual : nullptr, result, channels_last);
  return {result, tensor_of(mean, {g.batch, g.channels}, ScalarType::Float)};
}

FiveGrads channel_attention_bwd(Tensor grad_out, Tensor x, Tensor mean, Tensor w1, Tensor b1, Tensor w2, Tensor b2,
                                int64_t needs) {
  Gate g = check_gate(x, w1, b1, w2, b2);
  check(grad_out, "grad_out", shape_of(x), x.scalar_type());
  check(mean, "mean", {g.batch, g.channels}, ScalarType::Float);
  const bool channels_last = is_channels_last(x);
  const Tensor dense_x = dense(x, channels_last);
  grad_out = dense(grad_out, channels_last);
  const Floats m = floats_of(mean);
  run_gate(g, m.data());
  const Floats grad_gate = sum_pixels(dense_x, &grad_out, channels_last);
  return finish_backward(g, backward_gate(g, m.data(), grad_gate.data()), x, &grad_out, channels_last, needs);
}

}  // namespace lkca::cpu
