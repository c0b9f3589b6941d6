// The branch of a large-kernel block: depthwise convolution, two pointwise layers with a ReLU between, the residual.
//
// Row by row in strips of columns; a ring holds the rows that the kernel reaches, so that nothing but the operator's
// tensors leaves the cache. Taps beyond the top and bottom are left out, those beyond the sides meet zeros; every sum
// has a fixed order. So a result depends on its window alone, not on where a strip, a slice or a tile begins. Where
// bf16 dot products serve, the depthwise sums and the hidden channels are rounded to bf16, as in PyTorch.
#pragma once

#include "cpu/pixels.h"

namespace lkca::cpu {
namespace {

constexpr int64_t kDepthwiseTile = kAccumulators / kTile * kTile;  // pixels of one depthwise sum

// The buffers of one strip of columns, and the weights of the pointwise layers.
template <typename T>
struct LargeKernelRoom {
  using Operand = typename Pairs<T>::Operand;
  Operand *mixed, *hidden;
  float *pixels, *residual;
  Ring rows;
  const float *w1, *w2;

  LargeKernelRoom(const LargeKernel& a, Arena& arena) {
    const int64_t inner = min_of(a.strip, a.width) + kDepthwiseTile, wide = inner + a.kernel_x - 1 + kTile;
    mixed = reinterpret_cast<Operand*>(arena.take(inner * a.lanes));
    hidden = reinterpret_cast<Operand*>(arena.take(kTile * a.fields));
    pixels = arena.take(inner * a.lanes);
    residual = arena.take(inner * a.lanes);
    rows = {arena.take(a.kernel_y * wide * a.lanes), a.kernel_y, wide * a.lanes};
    w1 = a.w1, w2 = a.w2;
    if constexpr (Pairs<T>::value) {
      w1 = pair_rows(a.w1, a.channels, a.fields, arena.take(ceil_div(a.channels, 2) * a.fields));
      w2 = pair_rows(a.w2, a.hidden, a.lanes, arena.take(ceil_div(a.hidden, 2) * a.lanes));
    }
  }
};

// Row y of an image as `floats` floats: the columns from..to and `reach` more beside them, zeros beyond the image.
template <typename T>
inline void load_row(const LargeKernel& a, const void* image, const int64_t (&stride)[4], int64_t b, int64_t y,
                     int64_t from, int64_t to, int64_t reach, float* row, int64_t floats) {
  const int64_t x0 = max_of(0, from - reach), x1 = min_of(a.width, to + reach);
  float* begin = row + (x0 - (from - reach)) * a.lanes;
  clear(row, begin);
  load_pixels(pixel_of<T>(image, stride, b, y, x0), stride[3], stride[1], x1 - x0, a.channels, a.lanes, begin);
  clear(begin + (x1 - x0) * a.lanes, row + floats);
}

// The kernel's rows that lie inside the image where its middle is at row y, from first to last.
struct Taps {
  int64_t first, last;
  Taps(const LargeKernel& a, int64_t y)
      : first(max_of(0, a.kernel_y / 2 - y)), last(min_of(a.kernel_y, a.height - y + a.kernel_y / 2)) {}
};

// Depthwise sums of a tile of pixels, one vector of channels; `offset` is that of the first pixel in a row of the ring.
// K: the kernel's width where a version of its own loads each pixel once for all taps, else 0.
template <int K, typename O>
inline void depthwise_tile(const LargeKernel& a, const float* kernel, const Ring& rows, int64_t y, const Taps& taps,
                           int64_t offset, int64_t v, O* to) {
  constexpr int T = kDepthwiseTile;
  Vec sum[T];
  LKCA_UNROLL
  for (int t = 0; t < T; ++t) sum[t] = Vec::set1(0.f);
  const float *line = rows.row(y + taps.first - a.kernel_y / 2), *end = rows.rows + rows.slots * rows.floats;
  for (int64_t tap = taps.first; tap < taps.last; ++tap) {
    const float* row = line + offset + v;
    const float* weight = kernel + tap * a.kernel_x * a.lanes + v;
    line = line + rows.floats < end ? line + rows.floats : rows.rows;
    if constexpr (K > 0) {
      Vec w[K];
      LKCA_UNROLL
      for (int k = 0; k < K; ++k) w[k] = Vec::load(weight + k * a.lanes);
      LKCA_UNROLL
      for (int i = 0; i < T + K - 1; ++i) {
        const Vec value = Vec::load(row + i * a.lanes);
        LKCA_UNROLL
        for (int t = 0; t < T; ++t)
          if (i - t >= 0 && i - t < K) sum[t] = fma(value, w[i - t], sum[t]);
      }
    } else {
      for (int64_t k = 0; k < a.kernel_x; ++k) {
        const Vec w = Vec::load(weight + k * a.lanes);
        LKCA_UNROLL
        for (int t = 0; t < T; ++t) sum[t] = fma(Vec::load(row + (k + t) * a.lanes), w, sum[t]);
      }
    }
  }
  LKCA_UNROLL
  for (int t = 0; t < T; ++t) sum[t].store(to + t * a.lanes + v);
}

// Row y of the depthwise sums, from the pixel on with which the rows of the ring begin, in whole tiles.
template <int K, typename O>
LKCA_NO_INLINE void depthwise_row(const LargeKernel& a, const float* kernel, const Ring& rows, int64_t y,
                                  int64_t columns, O* to) {
  const Taps taps(a, y);
  for (int64_t p = 0; p < columns; p += kDepthwiseTile)
    for (int64_t v = 0; v < a.lanes; v += N)
      depthwise_tile<K>(a, kernel, rows, y, taps, p * a.lanes, v, to + p * a.lanes);
}

LKCA_INLINE Vec relu(Vec sum) { return at_least(Vec::set1(0.f), sum); }

// pixels = w2 . relu(w1 . mixed), a tile of pixels at a time.
template <typename T>
inline void pointwise_row(const LargeKernel& a, const LargeKernelRoom<T>& room, int64_t columns) {
  for (int64_t p = 0; p < columns; p += kTile) {
    product(room.mixed + p * a.lanes, a.lanes, kTile, room.w1, a.channels, a.fields, room.hidden, relu);
    if (Pairs<T>::value && a.hidden % 2)  // what makes the last one a pair: of an infinite sum it is NaN, not 0
      for (int64_t t = 0; t < kTile; ++t) memset(room.hidden + t * a.fields + a.hidden, 0, sizeof *room.hidden);
    product(room.hidden, a.fields, kTile, room.w2, a.hidden, a.lanes, room.pixels + p * a.lanes);
  }
}

template <typename T>
inline void store_row(const LargeKernel& a, const LargeKernelRoom<T>& room, int64_t b, int64_t y, int64_t from,
                      int64_t columns) {
  T* out = pixel_of<T>(a.out, a.out_stride, b, y, from);
  if (a.residual) {
    const auto& stride = a.residual_stride;
    const T* residual = pixel_of<T>(a.residual, stride, b, y, from);
    if (dense(stride[3], stride[1], a.channels, a.lanes) &&
        dense(a.out_stride[3], a.out_stride[1], a.channels, a.lanes)) {
      for (int64_t i = 0; i < columns * a.lanes; i += N)
        (Vec::load(room.pixels + i) + Vec::load(residual + i)).store(out + i);
      return;
    }
    load_pixels(residual, stride[3], stride[1], columns, a.channels, a.lanes, room.residual);
    for (int64_t i = 0; i < columns * a.lanes; i += N)
      (Vec::load(room.pixels + i) + Vec::load(room.residual + i)).store(room.pixels + i);
  }
  store_pixels(room.pixels, columns, a.channels, a.lanes, out, a.out_stride[3], a.out_stride[1]);
}

template <typename T, int K>
void large_kernel_rows(const LargeKernel& a, int64_t begin, int64_t end, float* scratch) {
  Arena arena{scratch, 0};
  const LargeKernelRoom<T> room(a, arena);
  const int64_t reach = a.kernel_y / 2;
  while (begin < end) {
    const auto [b, from, to, y0, y1] = rows_of_strip(a, begin, end);
    int64_t next = max_of(0, y0 - reach);
    for (int64_t y = y0; y < y1; ++y) {
      for (; next < min_of(a.height, y + reach + 1); ++next)
        load_row<T>(a, a.x, a.x_stride, b, next, from, to, a.kernel_x / 2, room.rows.row(next), room.rows.floats);
      depthwise_row<K>(a, a.depthwise, room.rows, y, to - from, room.mixed);
      pointwise_row(a, room, to - from);
      store_row<T>(a, room, b, y, from, to - from);
    }
    begin += y1 - y0;
  }
}

int64_t large_kernel_fwd_scratch(const LargeKernel& a) {
  int64_t floats = 0;
  with_dtype(a.dtype, [&](auto t) {
    Arena arena{nullptr, 0};
    LargeKernelRoom<decltype(t)>(a, arena);
    floats = arena.used;
  });
  return floats;
}

// Widths with a version of their own; every other one runs the one named 0.
template <typename F>
inline void with_kernel(int64_t width, const F& f) {
  with_constant<3, 5, 7, 9, 0>(width, f);
}

void large_kernel_fwd(const LargeKernel& a, int64_t begin, int64_t end, float* scratch) {
  with_dtype(a.dtype, [&](auto t) {
    with_kernel(a.kernel_x,
                [&](auto k) { large_kernel_rows<decltype(t), decltype(k)::value>(a, begin, end, scratch); });
  });
}

}  // namespace
}  // namespace lkca::cpu

#define LKCA_LARGE_KERNEL_FWD_TABLE {large_kernel_fwd_scratch, large_kernel_fwd}
