// Backward of lowrank_pixel_shuffle with respect to z, weight, bias and gate: one pass over the gradient.
//
// Both products run along the rank (vectors of N ranks), so the gradient is only ever broadcast, sample by sample, from
// where it lies: it is never un-shuffled. With G_c = sum over pixels of grad (x) z for one image and channel:
//   grad_z = sum_m gate W_m grad_m,  grad_W = sum_b gate G,  grad_gate = <W, G> + <bias, sum grad>.
#pragma once

#include "cpu/kernels_common.h"

namespace lkca::cpu {
namespace {

// Shuffled rows whose phases share one set of accumulators (times two vectors of ranks).
template <int S>
constexpr int bwd_rows() {
  return S == 2 ? 2 : 1;
}

struct BwdRoom {
  float *z, *grad_z;            // [pixels of a slice][padded_rank]
  float *weight, *grad_weight;  // [s*s][padded_rank]
  float* grad_sum;              // [s*s]
  float* lane_sum;              // [s*s][N]
  float* grad;                  // s rows of gradient in fp32, for storage types other than fp32

  BwdRoom(const LowRankBwd& a, Arena& arena) {
    const int64_t s2 = static_cast<int64_t>(a.scale) * a.scale;
    z = arena.take(a.slice_rows * a.width * a.padded_rank);
    grad_z = arena.take(a.slice_rows * a.width * a.padded_rank);
    weight = arena.take(s2 * a.padded_rank);
    grad_weight = arena.take(s2 * a.padded_rank);
    grad_sum = arena.take(s2);
    lane_sum = arena.take(s2 * N);
    grad = arena.take(a.dtype == DType::f32 ? 0 : s2 * a.width);
  }
};

inline int64_t lowrank_bwd_scratch(const LowRankBwd& a) {
  Arena arena{nullptr, 0};
  BwdRoom(a, arena);
  return arena.used;
}

// grad_z[x][r] += sum over M phases of grad[x, m] * weight[m][r], for X pixels and V vectors of ranks at r.
template <int X, int V>
inline void add_grad_z(const float* grad, const int64_t* offset, int64_t phases, int64_t step, const float* weight,
                       int64_t padded, float* grad_z) {
  Vec acc[X][V];
  LKCA_UNROLL
  for (int x = 0; x < X; ++x) LKCA_UNROLL
  for (int v = 0; v < V; ++v) acc[x][v] = Vec::load(grad_z + x * padded + v * N);
  for (int64_t m = 0; m < phases; ++m) {
    const float* g = grad + offset[m];
    Vec w[V];
    LKCA_UNROLL
    for (int v = 0; v < V; ++v) w[v] = Vec::load(weight + m * padded + v * N);
    LKCA_UNROLL
    for (int x = 0; x < X; ++x) {
      const Vec sample = Vec::set1(g[x * step]);
      LKCA_UNROLL
      for (int v = 0; v < V; ++v) acc[x][v] = fma(sample, w[v], acc[x][v]);
    }
  }
  LKCA_UNROLL
  for (int x = 0; x < X; ++x) LKCA_UNROLL
  for (int v = 0; v < V; ++v) acc[x][v].store(grad_z + x * padded + v * N);
}

// grad_weight[m][r] += sum over pixels of grad[x, m] * z[x][r], for M phases that follow each other in `rows` rows.
template <int ROWS, int PHASES, int V>
inline void add_grad_weight(const float* grad, int64_t wide, int64_t step, int64_t width, const float* z,
                            int64_t padded, float* grad_weight, int64_t row_stride) {
  Vec acc[ROWS][PHASES][V];
  LKCA_UNROLL
  for (int i = 0; i < ROWS; ++i) LKCA_UNROLL
  for (int j = 0; j < PHASES; ++j) LKCA_UNROLL
  for (int v = 0; v < V; ++v) acc[i][j][v] = Vec::load(grad_weight + i * row_stride + j * padded + v * N);
  for (int64_t x = 0; x < width; ++x, grad += step, z += padded) {
    Vec pixel[V];
    LKCA_UNROLL
    for (int v = 0; v < V; ++v) pixel[v] = Vec::load(z + v * N);
    LKCA_UNROLL
    for (int i = 0; i < ROWS; ++i) LKCA_UNROLL
    for (int j = 0; j < PHASES; ++j) {
      const Vec sample = Vec::set1(grad[i * wide + j]);
      LKCA_UNROLL
      for (int v = 0; v < V; ++v) acc[i][j][v] = fma(sample, pixel[v], acc[i][j][v]);
    }
  }
  LKCA_UNROLL
  for (int i = 0; i < ROWS; ++i) LKCA_UNROLL
  for (int j = 0; j < PHASES; ++j) LKCA_UNROLL
  for (int v = 0; v < V; ++v) acc[i][j][v].store(grad_weight + i * row_stride + j * padded + v * N);
}

template <int S, int V>
void grad_weight_rows(const LowRankBwd& a, const float* grad, const float* z, int64_t r, float* grad_weight) {
  const int s = a.scale;
  const int64_t wide = a.width * s, padded = a.padded_rank;
  if constexpr (S == 0) {
    for (int i = 0; i < s; ++i) {
      int j = 0;
      for (; j + 4 <= s; j += 4)
        add_grad_weight<1, 4, V>(grad + i * wide + j, wide, s, a.width, z + r, padded,
                                 grad_weight + (i * s + j) * padded + r, 0);
      for (; j < s; ++j)
        add_grad_weight<1, 1, V>(grad + i * wide + j, wide, s, a.width, z + r, padded,
                                 grad_weight + (i * s + j) * padded + r, 0);
    }
  } else {
    constexpr int ROWS = bwd_rows<S>();
    for (int i = 0; i < S; i += ROWS)
      add_grad_weight<ROWS, S, V>(grad + i * wide, wide, S, a.width, z + r, padded, grad_weight + i * S * padded + r,
                                  S * padded);
  }
}

// Sums of a row of gradient, sample k added to lane k modulo s*N: all samples of a lane are of one phase.
template <int S>
void add_lane_sums(const float* grad, int64_t width, int scale, float* lane_sum) {
  const int s = S ? S : scale;
  for (int i = 0; i < s; ++i, grad += width * s, lane_sum += s * N) {
    int64_t x = 0;
    if constexpr (S != 0) {
      Vec sum[S];
      LKCA_UNROLL
      for (int k = 0; k < S; ++k) sum[k] = Vec::load(lane_sum + k * N);
      for (; x + N <= width; x += N) {
        LKCA_UNROLL
        for (int k = 0; k < S; ++k) sum[k] = sum[k] + Vec::load(grad + x * S + k * N);
      }
      LKCA_UNROLL
      for (int k = 0; k < S; ++k) sum[k].store(lane_sum + k * N);
    }
    for (int64_t k = x * s; k < width * s; ++k) lane_sum[k % (s * N)] += grad[k];
  }
}

inline void fold_lane_sums(const float* lane_sum, int scale, float* grad_sum) {
  for (int i = 0; i < scale; ++i, lane_sum += scale * N)
    for (int j = 0; j < scale; ++j) {
      float sum = 0;
      for (int x = 0; x < N; ++x) sum += lane_sum[x * scale + j];
      grad_sum[i * scale + j] = sum;
    }
}

// Offsets of the phases inside the s rows of gradient of one LR row are tabled, this many at a time.
constexpr int64_t kPhases = 256;

// Adds to the gradient of one LR row of z, whose s rows of gradient lie at `grad`; `weight` is the gated one.
inline void add_grad_z_row(const LowRankBwd& a, const float* grad, const float* weight, float* grad_z) {
  constexpr int X = kAccumulators / 2;
  const int64_t scale = a.scale, s2 = scale * scale, wide = a.width * scale, padded = a.padded_rank;
  int64_t offset[kPhases];
  for (int64_t m0 = 0; m0 < s2; m0 += kPhases) {
    const int64_t phases = min_of(kPhases, s2 - m0);
    for (int64_t m = 0; m < phases; ++m) offset[m] = (m0 + m) / scale * wide + (m0 + m) % scale;
    for (int64_t r = 0; r < padded; r += 2 * N) {
      const float* w = weight + m0 * padded + r;
      with_constant<1, 2>((padded - r) / N, [&](auto vectors) {
        constexpr int V = decltype(vectors)::value;
        int64_t x = 0;
        for (; x + X <= a.width; x += X)
          add_grad_z<X, V>(grad + x * scale, offset, phases, scale, w, padded, grad_z + x * padded + r);
        for (; x < a.width; ++x)
          add_grad_z<1, V>(grad + x * scale, offset, phases, scale, w, padded, grad_z + x * padded + r);
      });
    }
  }
}

// The z of a slice, and its gradient, are fp32 [pixel][padded_rank], zero beyond the rank.
template <typename T>
inline void load_slice(const LowRankBwd& a, int64_t b, int64_t y0, int64_t rows, float* to) {
  const auto& stride = a.z_stride;
  const T* z = static_cast<const T*>(a.z) + b * stride[0] + y0 * stride[2];
  for (int64_t y = 0; y < rows; ++y)
    for (int64_t x = 0; x < a.width; ++x, to += a.padded_rank) {
      const T* from = z + y * stride[2] + x * stride[3];
      for (int64_t r = 0; r < a.padded_rank; ++r) to[r] = r < a.rank ? to_float(from[r * stride[1]]) : 0.f;
    }
}

template <typename T>
inline void store_slice(const LowRankBwd& a, int64_t b, int64_t y0, int64_t rows, const float* from) {
  const auto& stride = a.grad_z_stride;
  T* grad_z = static_cast<T*>(a.grad_z) + b * stride[0] + y0 * stride[2];
  for (int64_t y = 0; y < rows; ++y)
    for (int64_t x = 0; x < a.width; ++x, from += a.padded_rank) {
      T* to = grad_z + y * stride[2] + x * stride[3];
      for (int64_t r = 0; r < a.rank; ++r) to[r * stride[1]] = from_float<T>(from[r]);
    }
}

// <W, G> + <bias, sum grad> of one channel; bias may be null.
inline float grad_gate(const BwdRoom& room, const float* weight, const float* bias, int64_t s2, int64_t padded) {
  float sum = 0;
  for (int64_t m = 0; m < s2; ++m) {
    Vec product = Vec::set1(0.f);
    for (int64_t r = m * padded; r < (m + 1) * padded; r += N)
      product = fma(Vec::load(weight + r), Vec::load(room.grad_weight + r), product);
    sum += product.sum() + (bias ? bias[m] * room.grad_sum[m] : 0.f);
  }
  return sum;
}

template <typename T, int S>
void lowrank_bwd_slice(const LowRankBwd& a, int64_t slice, int64_t group, const BwdRoom& room) {
  const int64_t b = slice / a.slices_per_image;
  const int64_t y0 = slice % a.slices_per_image * a.slice_rows;
  const int64_t rows = min_of(a.slice_rows, a.height - y0);
  const int64_t scale = a.scale, s2 = scale * scale, wide = a.width * scale, padded = a.padded_rank;
  const bool want_weight = a.partial_weight || a.partial_gate;
  const bool want_sum = a.partial_bias || (a.partial_gate && a.bias);

  if (want_weight) load_slice<T>(a, b, y0, rows, room.z);
  if (a.grad_z)
    for (int64_t k = 0; k < rows * a.width * padded; ++k) room.grad_z[k] = 0.f;

  for (int64_t c = 0; c < a.channels; ++c) {
    const float gate = a.gate ? a.gate[b * a.channels + c] : 1.f;
    const float* weight = a.weight + c * s2 * padded;
    for (int64_t k = 0; k < s2 * padded; ++k) room.weight[k] = gate * weight[k], room.grad_weight[k] = 0.f;
    if (want_sum)
      for (int64_t k = 0; k < s2 * N; ++k) room.lane_sum[k] = 0.f;
    for (int64_t y = 0; y < rows; ++y) {
      const T* source =
          static_cast<const T*>(a.grad_out) + (b * a.channels + c) * a.height * scale * wide + (y0 + y) * scale * wide;
      const float* grad;
      if constexpr (sizeof(T) == sizeof(float)) {
        grad = source;
      } else {
        for (int64_t x = 0; x < scale * wide; x += N)
          store_part(load_part(source + x, scale * wide - x), room.grad + x, scale * wide - x);
        grad = room.grad;
      }
      const int64_t pixel = y * a.width * padded;
      if (a.grad_z) add_grad_z_row(a, grad, room.weight, room.grad_z + pixel);
      if (want_weight)
        for (int64_t r = 0; r < padded; r += 2 * N)
          with_constant<1, 2>((padded - r) / N, [&](auto vectors) {
            grad_weight_rows<S, decltype(vectors)::value>(a, grad, room.z + pixel, r, room.grad_weight);
          });
      if (want_sum) add_lane_sums<S>(grad, a.width, a.scale, room.lane_sum);
    }
    if (want_sum) fold_lane_sums(room.lane_sum, a.scale, room.grad_sum);
    if (a.partial_gate)
      a.partial_gate[slice * a.channels + c] = grad_gate(room, weight, a.bias ? a.bias + c * s2 : nullptr, s2, padded);
    if (a.partial_weight) {
      float* to = a.partial_weight + (group * a.channels + c) * s2 * padded;
      for (int64_t k = 0; k < s2 * padded; ++k) to[k] += gate * room.grad_weight[k];
    }
    if (a.partial_bias) {
      float* to = a.partial_bias + (group * a.channels + c) * s2;
      for (int64_t m = 0; m < s2; ++m) to[m] += gate * room.grad_sum[m];
    }
  }

  if (a.grad_z) store_slice<T>(a, b, y0, rows, room.grad_z);
}

void lowrank_bwd(const LowRankBwd& a, int64_t begin, int64_t end, float* scratch) {
  Arena arena{scratch, 0};
  const BwdRoom room(a, arena);
  const int64_t slices = a.batch * a.slices_per_image;
  with_dtype(a.dtype, [&](auto t) {
    with_scale(a.scale, [&](auto scale) {
      for (int64_t group = begin; group < end; ++group)
        for (int64_t slice = group * slices / a.groups; slice < (group + 1) * slices / a.groups; ++slice)
          lowrank_bwd_slice<decltype(t), decltype(scale)::value>(a, slice, group, room);
    });
  });
}

}  // namespace
}  // namespace lkca::cpu
