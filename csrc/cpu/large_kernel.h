// The branch of a large-kernel block: depthwise convolution, two pointwise layers with a ReLU between, the residual.
//
// Row by row in strips of columns; a ring holds the rows that the kernel reaches, so that nothing but the operator's
// tensors leaves the cache. The backward makes the forward's row again. Taps beyond the top and bottom are left out,
// those beyond the sides meet zeros; every sum has a fixed order. So a result depends on its window alone, not on where
// a strip, a slice or a tile begins.
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
template <int K>
inline void depthwise_tile(const LargeKernel& a, const float* kernel, const Ring& rows, int64_t y, const Taps& taps,
                           int64_t offset, int64_t v, float* to) {
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
template <int K>
LKCA_NO_INLINE void depthwise_row(const LargeKernel& a, const float* kernel, const Ring& rows, int64_t y,
                                  int64_t columns, float* to) {
  const Taps taps(a, y);
  for (int64_t p = 0; p < columns; p += kDepthwiseTile)
    for (int64_t v = 0; v < a.lanes; v += N)
      depthwise_tile<K>(a, kernel, rows, y, taps, p * a.lanes, v, to + p * a.lanes);
}

LKCA_INLINE Vec relu(Vec sum) { return at_least(Vec::set1(0.f), sum); }

// pixels = w2 . relu(w1 . mixed), a tile of pixels at a time.
inline void pointwise_row(const LargeKernel& a, const LargeKernelRoom& room, int64_t columns) {
  for (int64_t p = 0; p < columns; p += kTile) {
    product(room.mixed + p * a.lanes, a.lanes, kTile, a.w1, a.channels, a.fields, room.hidden, relu);
    product(room.hidden, a.fields, kTile, a.w2, a.hidden, a.lanes, room.pixels + p * a.lanes);
  }
}

template <typename T>
inline void store_row(const LargeKernel& a, const LargeKernelRoom& room, int64_t b, int64_t y, int64_t from,
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

// The buffers of one slice: rows of x with twice the reach beside them, rows of the gradient of the depthwise sums
// with the reach once, and one row of the latter's size of everything else.
struct LargeKernelGradRoom {
  float *mixed, *grads, *hidden, *hidden_grads;
  Ring rows, mixed_grads;

  LargeKernelGradRoom(const LargeKernel& a, Arena& arena) {
    const int64_t inner = min_of(a.strip, a.width) + a.kernel_x - 1 + kDepthwiseTile;
    const int64_t wide = inner + a.kernel_x - 1 + kTile;
    mixed = arena.take(inner * a.lanes);
    grads = arena.take(inner * a.lanes);
    hidden = arena.take(inner * a.fields);
    hidden_grads = arena.take(inner * a.fields);
    rows = {arena.take(a.kernel_y * wide * a.lanes), a.kernel_y, wide * a.lanes};
    mixed_grads = {arena.take(a.kernel_y * inner * a.lanes), a.kernel_y, inner * a.lanes};
  }
};

// sums[tap] += sum over the pixels of grad[p] * (the pixel that tap meets there), for row y.
template <int K>
inline void depthwise_grad_row(const LargeKernel& a, const LargeKernelGradRoom& room, int64_t y, int64_t columns,
                               float* sums) {
  constexpr int L = K > 0 ? K : 1;  // taps summed at a time
  const int64_t reach = a.kernel_x / 2;
  const float* grads = room.mixed_grads.row(y) + reach * a.lanes;
  const Taps taps(a, y);
  for (int64_t tap = taps.first; tap < taps.last; ++tap) {
    const float* row = room.rows.row(y + tap - a.kernel_y / 2) + reach * a.lanes;
    for (int64_t k = 0; k < a.kernel_x; k += L)
      for (int64_t v = 0; v < a.lanes; v += N) {
        float* to = sums + (tap * a.kernel_x + k) * a.lanes + v;
        Vec sum[L];
        LKCA_UNROLL
        for (int l = 0; l < L; ++l) sum[l] = Vec::load(to + l * a.lanes);
        for (int64_t p = 0; p < columns; ++p) {
          const Vec grad = Vec::load(grads + p * a.lanes + v);
          LKCA_UNROLL
          for (int l = 0; l < L; ++l) sum[l] = fma(grad, Vec::load(row + (p + k + l) * a.lanes + v), sum[l]);
        }
        LKCA_UNROLL
        for (int l = 0; l < L; ++l) sum[l].store(to + l * a.lanes);
      }
  }
}

// Partial sums of one slice, or null.
struct LargeKernelSums {
  float *depthwise, *w1, *w2;
};

// Row y of the gradient of the depthwise sums, for the columns from..to and the reach beside them, zeros beyond the
// image: what the forward made is made again. Rows of the slice itself leave their part of the weights' gradients
// behind.
template <typename T, int K>
inline void mixed_grad_row(const LargeKernel& a, const LargeKernelGradRoom& room, int64_t b, int64_t y, int64_t from,
                           int64_t to, const LargeKernelSums* sums) {
  const int64_t reach = a.kernel_x / 2, x0 = max_of(0, from - reach), x1 = min_of(a.width, to + reach);
  const int64_t columns = x1 - x0, beyond = x0 - (from - reach), own = to - from;
  const Ring inside{room.rows.rows + beyond * a.lanes, room.rows.slots, room.rows.floats};
  depthwise_row<K>(a, a.depthwise, inside, y, columns, room.mixed);
  product(room.mixed, a.lanes, columns, a.w1, a.channels, a.fields, room.hidden, relu);
  load_row<T>(a, a.grad_out, a.grad_out_stride, b, y, x0, x1, 0, room.grads, room.mixed_grads.floats);
  product(room.grads, a.lanes, columns, a.w2_back, a.channels, a.fields, room.hidden_grads);
  for (int64_t i = 0; i < columns * a.fields; i += N)
    where_positive(Vec::load(room.hidden + i), Vec::load(room.hidden_grads + i)).store(room.hidden_grads + i);
  float *row = room.mixed_grads.row(y), *begin = row + beyond * a.lanes;
  product(room.hidden_grads, a.fields, columns, a.w1_back, a.hidden, a.lanes, begin);
  clear(row, begin);
  clear(begin + columns * a.lanes, row + room.mixed_grads.floats);
  if (!sums) return;
  const float *mixed = room.mixed + (from - x0) * a.lanes, *grads = room.grads + (from - x0) * a.lanes;
  const float *hidden = room.hidden + (from - x0) * a.fields,
              *hidden_grads = room.hidden_grads + (from - x0) * a.fields;
  if (sums->depthwise) depthwise_grad_row<K>(a, room, y, own, sums->depthwise);
  if (sums->w1) add_outer(hidden_grads, a.fields, mixed, a.lanes, own, a.hidden, sums->w1);
  if (sums->w2) add_outer(hidden, a.fields, grads, a.lanes, own, a.hidden, sums->w2);
}

template <typename T, int K>
void large_kernel_slices(const LargeKernel& a, int64_t begin, int64_t end, float* scratch) {
  Arena arena{scratch, 0};
  const LargeKernelGradRoom room(a, arena);
  const int64_t reach = a.kernel_y / 2, kernel = a.kernel_y * a.kernel_x * a.lanes, layer = a.fields * a.lanes;
  const auto cleared = [](float* all, int64_t slice, int64_t floats) {
    float* mine = all ? all + slice * floats : nullptr;
    if (mine) clear(mine, mine + floats);
    return mine;
  };
  for (int64_t slice = begin; slice < end; ++slice) {
    const auto [b, from, to, y0, y1] = slice_of(a, slice);
    const LargeKernelSums sums{cleared(a.partial_depthwise, slice, kernel), cleared(a.partial_w1, slice, layer),
                               cleared(a.partial_w2, slice, layer)};
    int64_t next_grad = max_of(0, y0 - reach), next = max_of(0, next_grad - reach);
    for (int64_t y = y0; y < y1; ++y) {
      for (; next_grad < min_of(a.height, y + reach + 1); ++next_grad) {
        for (; next < min_of(a.height, next_grad + reach + 1); ++next)
          load_row<T>(a, a.x, a.x_stride, b, next, from, to, a.kernel_x - 1, room.rows.row(next), room.rows.floats);
        const bool own = y0 <= next_grad && next_grad < y1;
        mixed_grad_row<T, K>(a, room, b, next_grad, from, to, own ? &sums : nullptr);
      }
      if (!a.grad_x) continue;
      depthwise_row<K>(a, a.flipped, room.mixed_grads, y, to - from, room.mixed);
      const auto& stride = a.grad_x_stride;
      store_pixels(room.mixed, to - from, a.channels, a.lanes, pixel_of<T>(a.grad_x, stride, b, y, from), stride[3],
                   stride[1]);
    }
  }
}

int64_t large_kernel_scratch(const LargeKernel& a) {
  Arena arena{nullptr, 0};
  if (a.grad_out)
    LargeKernelGradRoom(a, arena);
  else
    LargeKernelRoom(a, arena);
  return arena.used;
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

void large_kernel_bwd(const LargeKernel& a, int64_t begin, int64_t end, float* scratch) {
  with_dtype(a.dtype, [&](auto t) {
    with_kernel(a.kernel_x,
                [&](auto k) { large_kernel_slices<decltype(t), decltype(k)::value>(a, begin, end, scratch); });
  });
}

}  // namespace
}  // namespace lkca::cpu
