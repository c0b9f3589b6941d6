// The backward of large_kernel_branch: makes each of the forward's rows again, in fp32 whatever the storage.
#pragma once

#include "cpu/large_kernel_fwd.h"

namespace lkca::cpu {
namespace {

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

int64_t large_kernel_bwd_scratch(const LargeKernel& a) {
  Arena arena{nullptr, 0};
  LargeKernelGradRoom(a, arena);
  return arena.used;
}

void large_kernel_bwd(const LargeKernel& a, int64_t begin, int64_t end, float* scratch) {
  with_dtype(a.dtype, [&](auto t) {
    with_kernel(a.kernel_x,
                [&](auto k) { large_kernel_slices<decltype(t), decltype(k)::value>(a, begin, end, scratch); });
  });
}

}  // namespace
}  // namespace lkca::cpu
