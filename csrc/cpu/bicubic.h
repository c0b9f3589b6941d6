// The adjoint of the bicubic upsampling: the gradient of a low-resolution skip. The upsampling itself, part of the
// forward kernels, is in kernels_common.h.
#pragma once

#include "cpu/kernels_common.h"

namespace lkca::cpu {
namespace {

inline int64_t bicubic_bwd_scratch(const BicubicBwd& a) {
  return (a.height + 1) * ceil_div(a.width, N) * N + a.width + 4 * N;
}

// Transpose of the two halves: each gradient row is reduced to a line of width + 4 samples, whose border samples go to
// where the border rule took them from; the line then goes to four rows of the plane.
template <typename T>
void bicubic_bwd_planes(const BicubicBwd& a, int64_t begin, int64_t end, float* plane) {
  const int64_t s = a.bicubic.scale, w = a.width, h = a.height, pitch = ceil_div(w, N) * N;
  const Bicubic rule = a.bicubic.convention;
  float* line = plane + (h + 1) * pitch;  // line[2 + x]
  for (int64_t p = begin; p < end; ++p) {
    for (int64_t k = 0; k < h * pitch; ++k) plane[k] = 0.f;
    const T* grad = static_cast<const T*>(a.grad_out) + p * h * s * w * s;
    for (int64_t y = 0; y < h; ++y)
      for (int64_t i = 0; i < s; ++i, grad += w * s) {
        for (int64_t x = 0; x < w + 4; ++x) line[x] = 0.f;
        for (int64_t j = 0; j < s; ++j) {
          const BicubicTaps& taps = a.bicubic.taps[j];
          float* to = line + 2 + taps.first;
          for (int k = 0; k < 4; ++k)
            for (int64_t x = 0; x < w; ++x) to[x + k] += taps.weight[k] * to_float(grad[x * s + j]);
        }
        for (int64_t x = -2; x < 0; ++x) line[2 + bicubic_border(x, w, rule)] += line[2 + x];
        for (int64_t x = w; x < w + 2; ++x) line[2 + bicubic_border(x, w, rule)] += line[2 + x];
        const BicubicTaps& taps = a.bicubic.taps[i];
        for (int k = 0; k < 4; ++k) {
          float* to = plane + bicubic_border(y + taps.first + k, h, rule) * pitch;
          for (int64_t x = 0; x < w; ++x) to[x] += taps.weight[k] * line[2 + x];
        }
      }
    T* out = static_cast<T*>(a.grad_low) + p * h * w;
    for (int64_t y = 0; y < h; ++y)
      for (int64_t x = 0; x < w; ++x) out[y * w + x] = from_float<T>(plane[y * pitch + x]);
  }
}

void bicubic_bwd(const BicubicBwd& a, int64_t begin, int64_t end, float* scratch) {
  with_dtype(a.dtype, [&](auto t) { bicubic_bwd_planes<decltype(t)>(a, begin, end, scratch); });
}

}  // namespace
}  // namespace lkca::cpu
