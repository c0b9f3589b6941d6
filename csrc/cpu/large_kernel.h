// The branch of a large-kernel block: depthwise convolution, two pointwise layers with a ReLU between, the residual.
//
// Row by row in strips of columns; a ring holds the rows that the kernel reaches, so that nothing but the operator's
// tensors leaves the cache. Taps beyond the top and bottom are left out, those beyond the sides meet zeros; every sum
// has a fixed order. So a result depends on its window alone, not on where a strip, a slice or a tile begins.
#pragma once

#include "cpu/pixels.h"

namespace lkca::cpu {
namespace {

constexpr int64_t kDepthwiseTile = kAccumulators / kTile * kTile;  // pixels of one depthwise sum

// The buffers of one strip of columns.
struct LargeKernelRoom {
  float *mixed, *hidden, *pixels;
  Ring rows;

  LargeKernelRoom(const LargeKernel& a, Arena& arena) {
    const int64_t inner = min_of(a.strip, a.width) + kDepthwiseTile, wide = inner + a.kernel_x - 1 + kTile;
    mixed = arena.take(inner * a.lanes);
    hidden = arena.take(kTile * a.fields);
    pixels = arena.take(inner * a.lanes);
    rows = {arena.take(a.kernel_y * wide * a.lanes), a.kernel_y, wide * a.lanes};
  }
};

// Row y of the image for the columns from..to and what the kernel reaches beside them, zeros beyond the image.
template <typename T>
inline void load_row(const LargeKernel& a, const LargeKernelRoom& room, int64_t b, int64_t y, int64_t from,
                     int64_t to) {
  const int64_t reach = a.kernel_x / 2, x0 = max_of(0, from - reach), x1 = min_of(a.width, to + reach);
  float* row = room.rows.row(y);
  float* begin = row + (x0 - (from - reach)) * a.lanes;
  clear(row, begin);
  const T* x = static_cast<const T*>(a.x) + b * a.x_stride[0] + y * a.x_stride[2] + x0 * a.x_stride[3];
  load_pixels(x, a.x_stride[3], a.x_stride[1], x1 - x0, a.channels, a.lanes, begin);
  clear(begin + (x1 - x0) * a.lanes, row + room.rows.floats);
}

// Depthwise sums of a tile of pixels, one vector of channels, over the kernel's rows first..last. K: the kernel's width
// where a version of its own loads each pixel once for all taps, else 0.
template <int K>
inline void depthwise_tile(const LargeKernel& a, const Ring& rows, int64_t y, int64_t first, int64_t last,
                           int64_t offset, int64_t v, float* to) {
  constexpr int T = kDepthwiseTile;
  Vec sum[T];
  LKCA_UNROLL
  for (int t = 0; t < T; ++t) sum[t] = Vec::set1(0.f);
  const float *line = rows.row(y + first - a.kernel_y / 2), *end = rows.rows + rows.slots * rows.floats;
  for (int64_t tap = first; tap < last; ++tap) {
    const float* row = line + offset + v;
    const float* weight = a.depthwise + tap * a.kernel_x * a.lanes + v;
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

template <int K>
inline void depthwise_row(const LargeKernel& a, const LargeKernelRoom& room, int64_t y, int64_t columns) {
  const int64_t reach = a.kernel_y / 2;
  const int64_t first = max_of(0, reach - y), last = min_of(a.kernel_y, a.height - y + reach);
  for (int64_t p = 0; p < columns; p += kDepthwiseTile)
    for (int64_t v = 0; v < a.lanes; v += N)
      depthwise_tile<K>(a, room.rows, y, first, last, p * a.lanes, v, room.mixed + p * a.lanes);
}

// pixels = w2 . relu(w1 . mixed), a tile of pixels at a time.
inline void pointwise_row(const LargeKernel& a, const LargeKernelRoom& room, int64_t columns) {
  const auto relu = [](Vec sum) { return at_least(Vec::set1(0.f), sum); };
  for (int64_t p = 0; p < columns; p += kTile) {
    product(room.mixed + p * a.lanes, a.lanes, kTile, a.w1, a.channels, a.fields, room.hidden, relu);
    product(room.hidden, a.fields, kTile, a.w2, a.hidden, a.lanes, room.pixels + p * a.lanes);
  }
}

template <typename T>
inline void store_row(const LargeKernel& a, const LargeKernelRoom& room, int64_t b, int64_t y, int64_t from,
                      int64_t columns) {
  T* out = static_cast<T*>(a.out) + b * a.out_stride[0] + y * a.out_stride[2] + from * a.out_stride[3];
  if (a.residual) {
    const auto& stride = a.residual_stride;
    const T* residual = static_cast<const T*>(a.residual) + b * stride[0] + y * stride[2] + from * stride[3];
    if (dense(stride[3], stride[1], a.channels, a.lanes) &&
        dense(a.out_stride[3], a.out_stride[1], a.channels, a.lanes)) {
      for (int64_t i = 0; i < columns * a.lanes; i += N)
        (Vec::load(room.pixels + i) + Vec::load(residual + i)).store(out + i);
      return;
    }
    load_pixels(residual, stride[3], stride[1], columns, a.channels, a.lanes, room.mixed);
    for (int64_t i = 0; i < columns * a.lanes; i += N)
      (Vec::load(room.pixels + i) + Vec::load(room.mixed + i)).store(room.pixels + i);
  }
  store_pixels(room.pixels, columns, a.channels, a.lanes, out, a.out_stride[3], a.out_stride[1]);
}

template <typename T, int K>
void large_kernel_rows(const LargeKernel& a, int64_t begin, int64_t end, float* scratch) {
  Arena arena{scratch, 0};
  const LargeKernelRoom room(a, arena);
  const int64_t strips = ceil_div(a.width, a.strip), reach = a.kernel_y / 2;
  while (begin < end) {
    const int64_t b = begin / a.height / strips, from = begin / a.height % strips * a.strip;
    const int64_t to = min_of(a.width, from + a.strip);
    const int64_t y0 = begin % a.height, y1 = min_of(a.height, y0 + end - begin);
    int64_t next = max_of(0, y0 - reach);
    for (int64_t y = y0; y < y1; ++y) {
      for (; next < min_of(a.height, y + reach + 1); ++next) load_row<T>(a, room, b, next, from, to);
      depthwise_row<K>(a, room, y, to - from);
      pointwise_row(a, room, to - from);
      store_row<T>(a, room, b, y, from, to - from);
    }
    begin += y1 - y0;
  }
}

int64_t large_kernel_scratch(const LargeKernel& a) {
  Arena arena{nullptr, 0};
  LargeKernelRoom(a, arena);
  return arena.used;
}

void large_kernel_fwd(const LargeKernel& a, int64_t begin, int64_t end, float* scratch) {
  with_dtype(a.dtype, [&](auto t) {
    using T = decltype(t);
    switch (a.kernel_x) {
      case 3:
        return large_kernel_rows<T, 3>(a, begin, end, scratch);
      case 5:
        return large_kernel_rows<T, 5>(a, begin, end, scratch);
      case 7:
        return large_kernel_rows<T, 7>(a, begin, end, scratch);
      case 9:
        return large_kernel_rows<T, 9>(a, begin, end, scratch);
      default:
        return large_kernel_rows<T, 0>(a, begin, end, scratch);
    }
  });
}

}  // namespace
}  // namespace lkca::cpu
