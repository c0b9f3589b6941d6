// pixel_shuffle_epilogue, forward and backward.
#pragma once

#include "cpu/kernels_common.h"

namespace lkca::cpu {
namespace {

inline int64_t epilogue_scratch(const Epilogue& a) {
  return line_floats(a.width) + 2 * ceil_div(a.width, N) * N * a.scale;
}

// row[x * s + j] in fp32 from the s phases of one shuffled row.
template <typename T, int S>
inline void gather_row(const T* y, int64_t phase_stride, int64_t pixel_stride, int64_t width, int s, float* row) {
  if constexpr (S != 0) {
    if (pixel_stride == 1) {
      for (int64_t x = 0; x < width; x += N) {
        Vec v[S];
        LKCA_UNROLL
        for (int j = 0; j < S; ++j) v[j] = to_lane_order<S>(load_part(y + j * phase_stride + x, width - x));
        interleave<S>(v);
        LKCA_UNROLL
        for (int j = 0; j < S; ++j) v[j].store(row + x * S + j * N);
      }
      return;
    }
  }
  const int phases = S ? S : s;
  for (int64_t x = 0; x < width; ++x)
    for (int j = 0; j < phases; ++j) row[x * phases + j] = to_float(y[x * pixel_stride + j * phase_stride]);
}

// The plane and row that a task makes. Where y is channels_last, the channels of a row come one after the other: they
// share its cache lines.
struct EpilogueTask {
  int64_t b, c, image, y;
};

inline EpilogueTask epilogue_task(const Epilogue& a, int64_t task) {
  const bool pixels = a.y_stride[1] < a.y_stride[3];
  const int64_t b = task / (a.channels * a.height), rest = task % (a.channels * a.height);
  const int64_t c = pixels ? rest % a.channels : rest / a.height;
  return {b, c, b * a.channels + c, pixels ? rest / a.channels : rest % a.height};
}

template <typename T, int S>
void epilogue_fwd_rows(const Epilogue& a, int64_t begin, int64_t end, float* scratch) {
  const int64_t s = a.scale, w = a.width, wide = w * s;
  float* line = scratch;
  float* row = line + line_floats(w);
  float* low = row + ceil_div(w, N) * N * s;
  for (int64_t task = begin; task < end; ++task) {
    const auto [b, c, image, y] = epilogue_task(a, task);
    const float gate = a.gate ? a.gate[image] : 1.f;
    for (int64_t i = 0; i < s; ++i) {
      const T* from =
          static_cast<const T*>(a.y) + b * a.y_stride[0] + (c * s + i) * s * a.y_stride[1] + y * a.y_stride[2];
      const int64_t offset = image * a.height * s * wide + (y * s + i) * wide;
      T* out = static_cast<T*>(a.out) + offset;
      gather_row<T, S>(from, a.y_stride[1], a.y_stride[3], w, a.scale, row);
      if (a.skip_kind == Skip::low) {
        bicubic_line(static_cast<const T*>(a.skip) + image * a.height * w, a.height, w, y, a.bicubic.taps[i],
                     a.bicubic.convention, line);
        bicubic_row(line, w, a.bicubic, low);
        finish_row(row, wide, gate, low, out);
      } else {
        finish_row(row, wide, gate, static_cast<const T*>(a.skip) + (a.skip ? offset : 0), out);
      }
    }
  }
}

template <typename T, int S>
void epilogue_bwd_rows(const Epilogue& a, int64_t begin, int64_t end, float* row) {
  const int64_t s = a.scale, w = a.width, wide = w * s;
  for (int64_t task = begin; task < end; ++task) {
    const auto [b, c, image, y] = epilogue_task(a, task);
    const float gate = a.gate ? a.gate[image] : 1.f;
    float gate_sum = 0;
    for (int64_t i = 0; i < s; ++i) {
      const int64_t m = (c * s + i) * s;
      const T* grad = static_cast<const T*>(a.grad_out) + image * a.height * s * wide + (y * s + i) * wide;
      if (a.partial_gate) {
        gather_row<T, S>(static_cast<const T*>(a.y) + b * a.y_stride[0] + m * a.y_stride[1] + y * a.y_stride[2],
                         a.y_stride[1], a.y_stride[3], w, a.scale, row);
        Vec sum = Vec::set1(0.f);
        for (int64_t x = 0; x < wide; x += N)
          sum = fma(load_part(grad + x, wide - x), load_part(row + x, wide - x), sum);
        gate_sum += sum.sum();
      }
      if (a.grad_y) {
        T* to = static_cast<T*>(a.grad_y) + b * a.grad_y_stride[0] + m * a.grad_y_stride[1] + y * a.grad_y_stride[2];
        const int64_t sp = a.grad_y_stride[1], sx = a.grad_y_stride[3];
        if (sx == 1)
          for (int64_t j = 0; j < s; ++j)
            for (int64_t x = 0; x < w; ++x) to[j * sp + x] = from_float<T>(gate * to_float(grad[x * s + j]));
        else
          for (int64_t x = 0; x < w; ++x)
            for (int64_t j = 0; j < s; ++j) to[j * sp + x * sx] = from_float<T>(gate * to_float(grad[x * s + j]));
      }
    }
    if (a.partial_gate) a.partial_gate[image * a.height + y] = gate_sum;
  }
}

void epilogue_fwd(const Epilogue& a, int64_t begin, int64_t end, float* scratch) {
  with_dtype(a.dtype, [&](auto t) {
    with_scale(a.scale, [&](auto s) { epilogue_fwd_rows<decltype(t), decltype(s)::value>(a, begin, end, scratch); });
  });
}

void epilogue_bwd(const Epilogue& a, int64_t begin, int64_t end, float* scratch) {
  with_dtype(a.dtype, [&](auto t) {
    with_scale(a.scale, [&](auto s) { epilogue_bwd_rows<decltype(t), decltype(s)::value>(a, begin, end, scratch); });
  });
}

}  // namespace
}  // namespace lkca::cpu
