// Channel attention within a window: rows of a few mixed magnitudes per pixel, summed along and across, then gates.
//
// A pixel has `fields` floats (hidden + 1, the last the mean over the channels) while it is mixed and summed, and
// `lanes` floats (its channels) while it is gated; both are padded to whole vectors. Windows are summed directly and in
// a fixed order, along the row and then down the rows: a result depends on its window alone, not on where a strip, a
// slice or a tile of the image begins, and a NaN stays in the windows that hold it.
#pragma once

#include "cpu/pixels.h"

namespace lkca::cpu {
namespace {

inline void magnitudes(float* values, int64_t count) {
  for (int64_t i = 0; i < count; i += N) magnitude(Vec::load(values + i)).store(values + i);
}

// The product (pixels.h) of planes: sum over r of weight[r][q] * load(r, p), N pixels from p on; finish(q, p, sum)
// takes it.
template <typename L, typename F>
inline void planar_product(int64_t pixels, const float* weight, int64_t rows, int64_t columns, int64_t used,
                           const L& load, const F& finish) {
  for (int64_t p = 0; p < pixels; p += N)
    for (int64_t q = 0; q < used; q += kTile) {
      Vec sum[kTile];
      LKCA_UNROLL
      for (int t = 0; t < kTile; ++t) sum[t] = Vec::set1(0.f);
      for (int64_t r = 0; r < rows; ++r) {
        const Vec value = load(r, p);
        LKCA_UNROLL
        for (int t = 0; t < kTile; ++t) sum[t] = fma(value, Vec::set1(weight[r * columns + q + t]), sum[t]);
      }
      LKCA_UNROLL
      for (int t = 0; t < kTile; ++t)
        if (q + t < used) finish(q + t, p, sum[t]);
    }
}

// V vectors at a time: out = the sum, in order, of `terms` rows that next(row) steps through.
template <int V, typename F>
inline void sum_terms(const float* row, int64_t terms, float* out, F next) {
  Vec sum[V];
  LKCA_UNROLL
  for (int v = 0; v < V; ++v) sum[v] = Vec::load(row + v * N);
  for (int64_t t = 1; t < terms; ++t) {
    row = next(row);
    LKCA_UNROLL
    for (int v = 0; v < V; ++v) sum[v] = sum[v] + Vec::load(row + v * N);
  }
  LKCA_UNROLL
  for (int v = 0; v < V; ++v) sum[v].store(out + v * N);
}

// out[i] = in[i] + in[i + step] + ...
inline void sum_along(const float* in, int64_t count, int64_t step, int64_t terms, float* out) {
  const auto next = [step](const float* row) { return row + step; };
  int64_t i = 0;
  for (; i + 4 * N <= count; i += 4 * N) sum_terms<4>(in + i, terms, out + i, next);
  for (; i < count; i += N) sum_terms<1>(in + i, terms, out + i, next);
}

// The rows first..last, added.
inline void sum_down(const Ring& ring, int64_t first, int64_t last, int64_t count, float* out) {
  const float *begin = ring.row(first), *end = ring.rows + ring.slots * ring.floats;
  const int64_t step = ring.floats, whole = ring.slots * ring.floats;
  const auto next = [step, whole, end](const float* row) { return row + step < end ? row + step : row + step - whole; };
  int64_t i = 0;
  for (; i + 4 * N <= count; i += 4 * N) sum_terms<4>(begin + i, last - first + 1, out + i, next);
  for (; i < count; i += N) sum_terms<1>(begin + i, last - first + 1, out + i, next);
}

// 2 / (1 + exp(-v)). exp by 2^n times a polynomial (Cephes' expf), its argument kept where neither factor leaves the
// normal numbers: relative error below 4e-7, and results below 1e-37 are not smaller still.
inline Vec twice_sigmoid(Vec v) {
  const Vec u = at_least(Vec::set1(-87.f), at_most(Vec::set1(87.f), v * Vec::set1(-1.f)));
  const Vec magic = Vec::set1(12582912.f);  // 1.5 * 2^23: a sum with it is rounded to an integer
  const Vec shifted = fma(u, Vec::set1(1.44269504f), magic), n = shifted - magic;
  const Vec r = fma(n, Vec::set1(2.12194440e-4f), fma(n, Vec::set1(-0.693359375f), u));
  constexpr float rest[] = {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f};
  Vec p = Vec::set1(1.9875691500e-4f);
  for (const float c : rest) p = fma(p, r, Vec::set1(c));
  p = fma(p, r * r, r) + Vec::set1(1.f);
  return Vec::set1(2.f) / fma(p, power_of_two(shifted), Vec::set1(1.f));
}

// The buffers of one strip of columns, each with room for its halo and a tile more.
struct LocalRoom {
  float *pixels, *more, *mixed, *sums, *inverse, *logits, *planes;
  int64_t plane;
  Ring fields, grads, gated;

  LocalRoom(const LocalAttention& a, Arena& arena, bool backward) {
    const int64_t halo = backward ? 4 : 2;
    const int64_t inner = min_of(a.strip, a.width), wide = inner + (halo - 2) * a.reach_x + kTile;
    const int64_t widest = inner + halo * a.reach_x + kTile, slots = 2 * a.reach_y + 1;
    pixels = arena.take(widest * a.lanes);
    more = arena.take(wide * a.lanes);
    logits = arena.take(wide * a.lanes);
    mixed = arena.take(widest * a.fields);
    sums = arena.take(wide * a.fields);
    inverse = arena.take(wide);
    plane = ceil_div(wide, N) * N;
    planes = arena.take(a.hidden * plane);
    fields = {arena.take(slots * wide * a.fields), slots, wide * a.fields};
    if (!backward) return;
    grads = {arena.take(slots * wide * a.fields), slots, wide * a.fields};
    gated = {arena.take((a.reach_y + 1) * wide * a.lanes), a.reach_y + 1, wide * a.lanes};
  }
};

// Rows (or columns) of the window around `at`, from first to last.
struct Span {
  int64_t first, last;
  Span(int64_t at, int64_t reach, int64_t size) : first(max_of(0, at - reach)), last(min_of(size - 1, at + reach)) {}
  int64_t count() const { return last - first + 1; }
};

// Puts `columns` pixels of `fields` floats, from column x0 on, between the zeros beyond the image that the windows of
// the columns from..to reach; fill(where) writes them. Then `out` gets the sums along the row for from..to.
template <typename F>
inline void window_row(const LocalAttention& a, float* mixed, int64_t from, int64_t to, float* out, const F& fill) {
  const int64_t left = max_of(0, a.reach_x - from);
  const int64_t x0 = max_of(0, from - a.reach_x), x1 = min_of(a.width, to + a.reach_x);
  float* begin = mixed + left * a.fields;
  fill(x0, x1, begin);
  clear(mixed, begin);
  clear(begin + (x1 - x0) * a.fields, mixed + (to - from + 2 * a.reach_x) * a.fields);
  sum_along(mixed, (to - from) * a.fields, a.fields, 2 * a.reach_x + 1, out);
}

// The mixed magnitudes of row y, summed along the row for the columns from..to.
template <typename T>
inline void fields_row(const LocalAttention& a, const LocalRoom& room, int64_t b, int64_t y, int64_t from, int64_t to) {
  window_row(a, room.mixed, from, to, room.fields.row(y), [&](int64_t x0, int64_t x1, float* where) {
    const T* x = pixel_of<T>(a.x, a.x_stride, b, y, x0);
    if (a.planar) {
      const auto load = [&](int64_t c, int64_t p) {
        return magnitude(load_part(x + c * a.x_stride[1] + p, x1 - x0 - p));
      };
      return planar_product(x1 - x0, a.w1, a.channels, a.fields, a.fields, load, [&](int64_t k, int64_t p, Vec sum) {
        float values[N];
        sum.store(values);
        for (int64_t l = 0; l < min_of(N, x1 - x0 - p); ++l) where[(p + l) * a.fields + k] = values[l];
      });
    }
    load_pixels(x, a.x_stride[3], a.x_stride[1], x1 - x0, a.channels, a.lanes, room.pixels);
    magnitudes(room.pixels, (x1 - x0) * a.lanes);
    product(room.pixels, a.lanes, x1 - x0, a.w1, a.channels, a.fields, where);
  });
}

// From the window sums of row y to sums = relu(hidden) and inverse = 1 / (mean + eps), all in sums of the window:
// their ratio is that of the means.
inline void hidden_row(const LocalAttention& a, const LocalRoom& room, int64_t y, int64_t from, int64_t to) {
  const Span rows(y, a.reach_y, a.height);
  sum_down(room.fields, rows.first, rows.last, (to - from) * a.fields, room.sums);
  for (int64_t x = from; x < to; ++x) {
    float* sums = room.sums + (x - from) * a.fields;
    const float pixels = static_cast<float>(rows.count() * Span(x, a.reach_x, a.width).count());
    const float inverse = 1 / (sums[a.hidden] + a.eps * pixels);
    room.inverse[x - from] = inverse;
    for (int64_t k = 0; k < a.fields; k += N)
      at_least(Vec::set1(0.f), Vec::load(sums + k) * Vec::set1(inverse)).store(sums + k);
  }
  clear(room.sums + (to - from) * a.fields, room.sums + ceil_div(to - from, kTile) * kTile * a.fields);
}

// w2 . hidden, for hidden_row's columns.
inline void logits_row(const LocalAttention& a, const LocalRoom& room, int64_t columns) {
  product(room.sums, a.fields, columns, a.w2, a.hidden, a.lanes, room.logits);
}

// The gates of a row applied: to planes in place, vectors over the pixels...
template <typename T>
inline void gate_planes(const LocalAttention& a, const LocalRoom& room, const T* x, const T* residual, int64_t columns,
                        T* out) {
  for (int64_t p = 0; p < columns; ++p)
    for (int64_t k = 0; k < a.hidden; ++k) room.planes[k * room.plane + p] = room.sums[p * a.fields + k];
  for (int64_t k = 0; k < a.hidden; ++k)
    clear(room.planes + k * room.plane + columns, room.planes + k * room.plane + ceil_div(columns, N) * N);
  const auto load = [&](int64_t k, int64_t p) { return Vec::load(room.planes + k * room.plane + p); };
  planar_product(columns, a.w2, a.hidden, a.lanes, a.channels, load, [&](int64_t c, int64_t p, Vec logits) {
    const int64_t count = columns - p;
    const Vec gate = twice_sigmoid(logits), value = load_part(x + c * a.x_stride[1] + p, count);
    const Vec gated =
        residual ? fma(value, gate, load_part(residual + c * a.residual_stride[1] + p, count)) : value * gate;
    store_part(gated, out + c * a.out_stride[1] + p, count);
  });
}

// ... and to any other layout as fp32 pixels.
template <typename T>
inline void gate_pixels(const LocalAttention& a, const LocalRoom& room, const T* x, const T* residual, int64_t columns,
                        T* out) {
  logits_row(a, room, columns);
  load_pixels(x, a.x_stride[3], a.x_stride[1], columns, a.channels, a.lanes, room.pixels);
  if (residual)
    load_pixels(residual, a.residual_stride[3], a.residual_stride[1], columns, a.channels, a.lanes, room.more);
  for (int64_t i = 0; i < columns * a.lanes; i += N) {
    const Vec gate = twice_sigmoid(Vec::load(room.logits + i)), value = Vec::load(room.pixels + i);
    (residual ? fma(value, gate, Vec::load(room.more + i)) : value * gate).store(room.pixels + i);
  }
  store_pixels(room.pixels, columns, a.channels, a.lanes, out, a.out_stride[3], a.out_stride[1]);
}

template <typename T>
void local_fwd_rows(const LocalAttention& a, int64_t begin, int64_t end, float* scratch) {
  Arena arena{scratch, 0};
  const LocalRoom room(a, arena, false);
  while (begin < end) {
    const auto [b, from, to, y0, y1] = rows_of_strip(a, begin, end);
    int64_t next = max_of(0, y0 - a.reach_y);
    for (int64_t y = y0; y < y1; ++y) {
      for (; next <= Span(y, a.reach_y, a.height).last; ++next) fields_row<T>(a, room, b, next, from, to);
      hidden_row(a, room, y, from, to);
      const T* x = pixel_of<T>(a.x, a.x_stride, b, y, from);
      const T* residual = a.residual ? pixel_of<T>(a.residual, a.residual_stride, b, y, from) : nullptr;
      T* out = pixel_of<T>(a.out, a.out_stride, b, y, from);
      a.planar ? gate_planes(a, room, x, residual, to - from, out) : gate_pixels(a, room, x, residual, to - from, out);
    }
    begin += y1 - y0;
  }
}

// Of one row: gradient of the window sums, summed along the row in turn (it is its own adjoint). Rows and columns of
// the slice itself leave grad_out * gate behind, and their part of the gradient of w2.
template <typename T>
inline void grads_row(const LocalAttention& a, const LocalRoom& room, int64_t b, int64_t y, int64_t from, int64_t to,
                      bool own, float* partial_w2) {
  window_row(a, room.mixed, from, to, room.grads.row(y), [&](int64_t x0, int64_t x1, float* where) {
    const int64_t columns = x1 - x0, inside = from - x0;
    hidden_row(a, room, y, x0, x1);
    logits_row(a, room, columns);
    const T* x = pixel_of<T>(a.x, a.x_stride, b, y, x0);
    const T* grad = pixel_of<T>(a.grad_out, a.grad_out_stride, b, y, x0);
    load_pixels(x, a.x_stride[3], a.x_stride[1], columns, a.channels, a.lanes, room.pixels);
    load_pixels(grad, a.grad_out_stride[3], a.grad_out_stride[1], columns, a.channels, a.lanes, room.more);
    for (int64_t i = 0; i < columns * a.lanes; i += N) {
      const Vec gate = twice_sigmoid(Vec::load(room.logits + i)), gated = Vec::load(room.more + i) * gate;
      gated.store(room.more + i);
      (gated * Vec::load(room.pixels + i) * fma(gate, Vec::set1(-0.5f), Vec::set1(1.f))).store(room.logits + i);
    }
    clear(room.logits + columns * a.lanes, room.logits + ceil_div(columns, kTile) * kTile * a.lanes);
    if (own) {
      const float* gated = room.more + inside * a.lanes;
      float* kept = room.gated.row(y);
      for (int64_t i = 0; i < (to - from) * a.lanes; i += N) Vec::load(gated + i).store(kept + i);
      if (partial_w2)
        add_outer(room.sums + inside * a.fields, a.fields, room.logits + inside * a.lanes, a.lanes, to - from, a.hidden,
                  partial_w2);
    }
    product(room.logits, a.lanes, columns, a.w2_back, a.channels, a.fields, where);
    for (int64_t p = 0; p < columns; ++p) {
      const float *hidden = room.sums + p * a.fields, inverse = room.inverse[p];
      float* grads = where + p * a.fields;
      float mean = 0;
      for (int64_t k = 0; k < a.fields; k += N) {
        const Vec h = Vec::load(hidden + k), g = where_positive(h, Vec::load(grads + k)) * Vec::set1(inverse);
        mean += (g * h).sum();
        g.store(grads + k);
      }
      grads[a.hidden] = -mean;
    }
  });
}

template <typename T>
void local_bwd_slices(const LocalAttention& a, int64_t begin, int64_t end, float* scratch) {
  Arena arena{scratch, 0};
  const LocalRoom room(a, arena, true);
  const int64_t partial = ceil_div(a.hidden, kTile) * kTile * a.lanes;
  for (int64_t slice = begin; slice < end; ++slice) {
    const auto [b, from, to, y0, y1] = slice_of(a, slice);
    const int64_t columns = to - from;
    float* partial_w1 = a.partial_w1 ? a.partial_w1 + slice * partial : nullptr;
    float* partial_w2 = a.partial_w2 ? a.partial_w2 + slice * partial : nullptr;
    if (partial_w1) clear(partial_w1, partial_w1 + partial);
    if (partial_w2) clear(partial_w2, partial_w2 + partial);
    const int64_t x0 = max_of(0, from - a.reach_x), x1 = min_of(a.width, to + a.reach_x);
    int64_t next_grad = max_of(0, y0 - a.reach_y), next_field = max_of(0, next_grad - a.reach_y);
    for (int64_t y = y0; y < y1; ++y) {
      const Span rows(y, a.reach_y, a.height);
      for (; next_grad <= rows.last; ++next_grad) {
        for (; next_field <= Span(next_grad, a.reach_y, a.height).last; ++next_field)
          fields_row<T>(a, room, b, next_field, x0, x1);
        grads_row<T>(a, room, b, next_grad, from, to, y0 <= next_grad && next_grad < y1, partial_w2);
      }
      if (!a.grad_x && !partial_w1) continue;
      sum_down(room.grads, rows.first, rows.last, columns * a.fields, room.sums);
      clear(room.sums + columns * a.fields, room.sums + ceil_div(columns, kTile) * kTile * a.fields);
      const T* x = pixel_of<T>(a.x, a.x_stride, b, y, from);
      load_pixels(x, a.x_stride[3], a.x_stride[1], columns, a.channels, a.lanes, room.pixels);
      if (a.grad_x) {
        product(room.sums, a.fields, columns, a.w1_back, a.hidden + 1, a.lanes, room.logits);
        const float* gated = room.gated.row(y);
        for (int64_t i = 0; i < columns * a.lanes; i += N) {
          const Vec value = Vec::load(room.pixels + i), slope = Vec::load(room.logits + i);
          const Vec turned = where_positive(value, slope) - where_positive(value * Vec::set1(-1.f), slope);
          (Vec::load(gated + i) + turned).store(room.logits + i);
        }
        T* grad = pixel_of<T>(a.grad_x, a.grad_x_stride, b, y, from);
        store_pixels(room.logits, columns, a.channels, a.lanes, grad, a.grad_x_stride[3], a.grad_x_stride[1]);
      }
      if (!partial_w1) continue;
      magnitudes(room.pixels, columns * a.lanes);
      add_outer(room.sums, a.fields, room.pixels, a.lanes, columns, a.hidden, partial_w1);
    }
  }
}

int64_t local_scratch(const LocalAttention& a) {
  Arena arena{nullptr, 0};
  LocalRoom(a, arena, a.grad_out != nullptr);
  return arena.used;
}

void local_fwd(const LocalAttention& a, int64_t begin, int64_t end, float* scratch) {
  with_dtype(a.dtype, [&](auto t) { local_fwd_rows<decltype(t)>(a, begin, end, scratch); });
}

void local_bwd(const LocalAttention& a, int64_t begin, int64_t end, float* scratch) {
  with_dtype(a.dtype, [&](auto t) { local_bwd_slices<decltype(t)>(a, begin, end, scratch); });
}

}  // namespace
}  // namespace lkca::cpu
