// Forward of lowrank_pixel_shuffle: a matrix product whose result is shuffled in registers. See docs/cpu_backend.md.
//
// The rows m = (c, i, j) of the weight are taken P at a time, P a multiple of s, against one vector of N pixels, so
// that P accumulators hold whole groups of s phases; these are interleaved in registers and stored as s*N consecutive
// samples. W is packed so that the broadcasts of a group are consecutive, z so that the vectors of a tile are.
#pragma once

#include "cpu/kernels_common.h"

namespace lkca::cpu {
namespace {

#ifndef LKCA_AMX
constexpr bool kTiles = false;
constexpr int64_t kTilePairs = 1;
struct Tiles {
  Tiles(int, int64_t) {}
  static void multiply(const float*, const float*, int64_t, float*) {}  // never called
};
#endif

template <int S>
struct Group {
  static constexpr int rows = S == 0 ? 1 : (kAccumulators / (S ? S : 1) > 0 ? kAccumulators / (S ? S : 1) : 1);
  static constexpr int P = S == 0 ? kAccumulators : rows * S;
};

// Groups that one task covers, so that a tile row of z is read from the first-level cache several times.
constexpr int64_t kGroupsPerTask = 4;

// Pixels that the samples of a shuffled row are fetched ahead of their use, at most; in narrower images it is the next
// row of pixels, so that the other groups of a task come between.
constexpr int64_t kPixelsAhead = 256;

// Steps of the inner loop: one per rank, or one per pair of ranks where bf16 dot products serve; whole tiles of pairs
// where they fill more than one.
inline int64_t steps_of(const LowRankFwd& a) {
  if (!kBf16Dot || a.dtype != DType::bf16) return a.rank;
  const int64_t pairs = ceil_div(a.rank, 2);
  return kTiles && pairs > kTilePairs ? ceil_div(pairs, kTilePairs) * kTilePairs : pairs;
}

template <int S>
inline int64_t group_count(const LowRankFwd& a) {
  if (S == 0) return a.channels * a.scale * ceil_div(a.scale, Group<S>::P);  // each shuffled row by itself
  return ceil_div(a.channels * S, Group<S>::rows);
}

// First m of a group and the number of its rows that exist.
template <int S>
inline int64_t group_first(const LowRankFwd& a, int64_t group, int64_t* count) {
  constexpr int P = Group<S>::P;
  if constexpr (S == 0) {
    const int64_t per_row = ceil_div(a.scale, P);
    const int64_t j = group % per_row * P;
    *count = min_of(P, a.scale - j);
    return group / per_row * a.scale + j;
  } else {
    *count = min_of(P, a.channels * S * S - group * P);
    return group * P;
  }
}

inline int64_t lowrank_weight_groups(const LowRankFwd& a) {
  return with_scale(a.scale, [&](auto s) { return group_count<decltype(s)::value>(a); });
}

inline int64_t lowrank_weight_group_floats(const LowRankFwd& a) {
  return with_scale(a.scale, [&](auto s) { return (steps_of(a) + 1) * Group<decltype(s)::value>::P; });
}

inline int64_t lowrank_packed_row_floats(const LowRankFwd& a) { return ceil_div(a.width, N) * N * steps_of(a); }

inline int64_t lowrank_fwd_tasks(const LowRankFwd& a) {
  return with_scale(a.scale, [&](auto s) {
    constexpr int S = decltype(s)::value;
    // A row of scale 0 spans several groups; one task holds whole rows.
    return S == 0 ? a.channels * a.scale : ceil_div(group_count<S>(a), kGroupsPerTask);
  });
}

inline int64_t lowrank_fwd_scratch(const LowRankFwd& a) {
  return with_scale(a.scale, [&](auto s) {
    constexpr int S = decltype(s)::value;
    return Group<S>::rows * line_floats(a.width) + (S == 0 ? 2 * ceil_div(a.width, N) * N * a.scale : 0);
  });
}

// Storage of one step for one row of W or one pixel of z: an fp32 value, or a pair of bf16 as fp32-sized bits.
template <bool PAIRS, typename T>
inline float step_value(const T* values, int64_t stride, int64_t step, int64_t rank) {
  if constexpr (PAIRS) {
    const uint32_t low = 2 * step < rank ? values[2 * step * stride].bits : 0;
    const uint32_t high = 2 * step + 1 < rank ? values[(2 * step + 1) * stride].bits : 0;
    return bits_float(high << 16 | low);
  } else {
    return to_float(values[step * stride]);
  }
}

// Layout [group][1 + steps][P]: the bias, then the columns of W; for tiles its rows, [P][steps].
template <typename T, int S>
void pack_weight(const LowRankFwd& a, int64_t begin, int64_t end) {
  constexpr int P = Group<S>::P;
  constexpr bool PAIRS = Pairs<T>::value;
  const T* weight = static_cast<const T*>(a.weight);
  const int64_t steps = steps_of(a);
  float* out = a.packed_weight + begin * (steps + 1) * P;
  for (int64_t group = begin; group < end; ++group, out += (steps + 1) * P) {
    int64_t count;
    const int64_t m = group_first<S>(a, group, &count);
    const T* rows = weight + m * a.rank;
    for (int64_t p = 0; p < P; ++p) out[p] = a.bias && p < count ? a.bias[m + p] : 0.f;
    if (kTiles || count < P) {
      for (int64_t p = 0; p < P; ++p)
        for (int64_t k = 0; k < steps; ++k)
          out[P + (kTiles ? p * steps + k : k * P + p)] =
              p < count ? step_value<PAIRS>(rows + p * a.rank, 1, k, a.rank) : 0.f;
    } else {  // P stores one after another, since a cost of every call
      for (int64_t k = 0; k < steps; ++k) {
        LKCA_UNROLL
        for (int p = 0; p < P; ++p) out[P + k * P + p] = step_value<PAIRS>(rows + p * a.rank, 1, k, a.rank);
      }
    }
  }
}

// Layout [row][tile][steps][N], the pixels of a tile in lane order, zero beyond the width.
template <typename T, int S>
void pack_rows(const LowRankFwd& a, int64_t begin, int64_t end) {
  constexpr bool PAIRS = Pairs<T>::value;
  const int64_t tiles = ceil_div(a.width, N), steps = steps_of(a);
  const int64_t sr = a.z_stride[1], sx = a.z_stride[3];
  for (int64_t row = begin; row < end; ++row) {
    const int64_t b = row / a.height, y = row % a.height;
    const T* z = static_cast<const T*>(a.z) + b * a.z_stride[0] + y * a.z_stride[2];
    float* out = a.packed_z + (row - a.row0) * tiles * N * steps;
    for (int64_t t = 0; t < tiles; ++t, out += steps * N) {
      const int64_t x0 = t * N;
      const int64_t count = min_of(N, a.width - x0);
      if (sx == 1) {
        for (int64_t k = 0; k < steps; ++k) {
          const auto load = [&](int64_t r) { return r < a.rank ? load_part(z + r * sr + x0, count) : Vec::set1(0.f); };
          to_lane_order<S>(PAIRS ? pair_bf16(load(2 * k), load(2 * k + 1)) : load(k)).store(out + k * N);
        }
      } else {
        for (int l = 0; l < N; ++l) {
          const int64_t pixel = lane_pixel<S>(l);
          const T* source = z + (x0 + pixel) * sx;
          for (int64_t k = 0; k < steps; ++k)
            out[k * N + l] = pixel < count ? step_value<PAIRS>(source, sr, k, a.rank) : 0.f;
        }
      }
    }
  }
}

template <int P, bool PAIRS>
LKCA_INLINE void multiply_tile(const float* weight, const float* z, int64_t steps, Vec (&acc)[P]) {
  if constexpr (kTiles) {
    alignas(64) float product[P * N];
    Tiles::multiply(weight + P, z, steps, product);
    LKCA_UNROLL
    for (int p = 0; p < P; ++p) acc[p] = Vec::load(product + p * N) + Vec::set1(weight[p]);
    return;
  }
  LKCA_UNROLL
  for (int p = 0; p < P; ++p) acc[p] = Vec::set1(weight[p]);
  for (int64_t k = 0; k < steps; ++k) {
    weight += P;
    const Vec pixels = Vec::load(z + k * N);
    LKCA_UNROLL
    for (int p = 0; p < P; ++p) acc[p] = multiply_add<PAIRS>(weight + p, pixels, acc[p]);
  }
}

// Where the results go: samples of the call's dtype.
template <typename T, bool STREAM>
struct Samples {
  using Out = T;
  static constexpr bool kStreams = STREAM;
  explicit Samples(const LowRankFwd&) {}
  void channel(int64_t) {}
  template <int S>
  LKCA_INLINE void put(Vec (&v)[S], T* p) {
    put_all<STREAM, S>(v, p);
  }
  void put_part(const Vec& v, T* p, int64_t count) { store_part(v, p, count); }
  void end_task(int64_t) {}
};

// One group of shuffled rows at one row of pixels.
template <typename T, int S, typename Sink>
inline void lowrank_group(const LowRankFwd& a, int64_t group, int64_t b, int64_t y, float* lines, Sink& sink) {
  using Out = typename Sink::Out;
  constexpr int P = Group<S>::P, ROWS = Group<S>::rows;
  const int64_t w = a.width, wide = w * S, plane = a.out_rows * S * wide;
  const int64_t steps = steps_of(a), padded = ceil_div(w, N) * N, near = min_of(kPixelsAhead, padded);
  const float* weight = a.packed_weight + group * (steps + 1) * P;
  const float* z = a.packed_z + (b * a.height + y - a.row0) * ceil_div(w, N) * N * steps;
  const int64_t q0 = group * ROWS;
  const int rows = static_cast<int>(min_of(ROWS, a.channels * S - q0));

  Out* out[ROWS];
  const T* skip[ROWS] = {};
  float gate[ROWS];
  for (int k = 0; k < rows; ++k) {
    const int64_t c = (q0 + k) / S, i = (q0 + k) % S;
    const int64_t offset = (b * a.channels + c) * plane + ((y - a.first_row) * S + i) * wide;
    out[k] = static_cast<Out*>(a.out) + offset;
    gate[k] = a.gate ? a.gate[b * a.channels + c] : 1.f;
    if (a.skip_kind == Skip::high) skip[k] = static_cast<const T*>(a.skip) + offset;
    if (a.skip_kind == Skip::low)
      bicubic_line(static_cast<const T*>(a.skip) + (b * a.channels + c) * a.height * w, a.height, w, y,
                   a.bicubic.taps[i], a.bicubic.convention, lines + k * line_floats(w));
  }

  for (int64_t x = 0; x < w; x += N, z += steps * N) {
    Vec acc[P];
    // Where this row of pixels ends, the next one begins.
    const int64_t to = (x + near < w ? x + near : x + near - padded + w * S) * S;
    if (a.skip_kind == Skip::high)
      for (int k = 0; k < rows; ++k)
        for (int64_t j = 0; j < S * N; j += 64 / sizeof(T)) prefetch(skip[k] + to + j);
    if constexpr (!Sink::kStreams)
      for (int k = 0; k < rows; ++k)
        for (int64_t j = 0; j < S * N; j += 64 / sizeof(Out)) prefetch_to_write(out[k] + to + j);
    multiply_tile<P, Pairs<T>::value>(weight, z, steps, acc);
    LKCA_UNROLL
    for (int k = 0; k < ROWS; ++k) {
      if (k >= rows) break;
      Vec v[S];
      const Vec g = Vec::set1(gate[k]);
      LKCA_UNROLL
      for (int j = 0; j < S; ++j) v[j] = acc[k * S + j];
      if (a.skip_kind == Skip::low) {
        LKCA_UNROLL
        for (int j = 0; j < S; ++j) v[j] = v[j] * g;
        add_bicubic_tile<S>(lines + k * line_floats(w) + x, a.bicubic.taps, v);
      }
      interleave<S>(v);
      Out* to = out[k] + x * S;
      sink.channel((q0 + k) / S);
      if (x + N <= w) {
        if (a.skip_kind == Skip::high) {
          LKCA_UNROLL
          for (int j = 0; j < S; ++j) v[j] = fma(v[j], g, Vec::load(skip[k] + x * S + j * N));
        } else if (a.skip_kind == Skip::none) {
          LKCA_UNROLL
          for (int j = 0; j < S; ++j) v[j] = v[j] * g;
        }
        sink.put(v, to);
      } else {
        const int64_t count = (w - x) * S;
        LKCA_UNROLL
        for (int j = 0; j < S; ++j) {
          if (j * N >= count) break;
          if (a.skip_kind == Skip::high)
            v[j] = fma(v[j], g, load_part(skip[k] + x * S + j * N, count - j * N));
          else if (a.skip_kind == Skip::none)
            v[j] = v[j] * g;
          sink.put_part(v[j], to + j * N, count - j * N);
        }
      }
    }
  }
}

// Any scale: the accumulators are scattered into a row of fp32, which is then finished like the others.
template <typename T, typename Sink>
inline void lowrank_row(const LowRankFwd& a, int64_t q, int64_t b, int64_t y, float* scratch, Sink& sink) {
  using Out = typename Sink::Out;
  constexpr int P = Group<0>::P;
  const int s = a.scale;
  const int64_t w = a.width, wide = w * s, c = q / s, i = q % s;
  float* row = scratch + line_floats(w);
  float* low = row + ceil_div(w, N) * N * s;
  const int64_t per_row = ceil_div(s, P), steps = steps_of(a);
  for (int64_t part = 0; part < per_row; ++part) {
    const float* weight = a.packed_weight + (q * per_row + part) * (steps + 1) * P;
    const float* z = a.packed_z + (b * a.height + y - a.row0) * ceil_div(w, N) * N * steps;
    const int64_t j0 = part * P, phases = min_of(P, s - j0);
    for (int64_t x = 0; x < w; x += N, z += steps * N) {
      Vec acc[P];
      multiply_tile<P, Pairs<T>::value>(weight, z, steps, acc);
      float lane[P][N];
      for (int p = 0; p < P; ++p) acc[p].store(lane[p]);
      for (int l = 0; l < N; ++l)
        for (int64_t p = 0; p < phases; ++p) row[(x + l) * s + j0 + p] = lane[p][l];
    }
  }
  const int64_t offset = ((b * a.channels + c) * a.out_rows + y - a.first_row) * s * wide + i * wide;
  Out* out = static_cast<Out*>(a.out) + offset;
  sink.channel(c);
  const auto put = [&](const Vec& v, Out* to, int64_t count) { sink.put_part(v, to, count); };
  const float gate = a.gate ? a.gate[b * a.channels + c] : 1.f;
  if (a.skip_kind == Skip::low) {
    bicubic_line(static_cast<const T*>(a.skip) + (b * a.channels + c) * a.height * w, a.height, w, y, a.bicubic.taps[i],
                 a.bicubic.convention, scratch);
    bicubic_row(scratch, w, a.bicubic, low);
    finish_row(row, wide, gate, low, out, put);
  } else {
    finish_row(row, wide, gate, static_cast<const T*>(a.skip) + (a.skip ? offset : 0), out, put);
  }
}

template <typename T, int S, typename Sink>
void lowrank_tasks(const LowRankFwd& a, int64_t begin, int64_t end, float* scratch) {
  Sink sink(a);
  const Tiles tiles(Group<S>::P, steps_of(a));
  // Rows of pixels run fastest: the output is then written plane after plane, fresh pages one after the other.
  for (int64_t task = begin; task < end; ++task) {
    const int64_t block = task / a.rows, row = a.row0 + task % a.rows;
    const int64_t b = row / a.height, y = row % a.height;
    if constexpr (S == 0) {
      lowrank_row<T>(a, block, b, y, scratch, sink);
    } else {
      const int64_t first = block * kGroupsPerTask, last = min_of(first + kGroupsPerTask, group_count<S>(a));
      for (int64_t group = first; group < last; ++group) {
        lowrank_group<T, S>(a, group, b, y, scratch, sink);
      }
    }
    sink.end_task(task);
  }
  if constexpr (Sink::kStreams) stream_fence();
}

void lowrank_pack_weight(const LowRankFwd& a, int64_t begin, int64_t end) {
  with_dtype(a.dtype, [&](auto t) {
    with_scale(a.scale, [&](auto s) { pack_weight<decltype(t), decltype(s)::value>(a, begin, end); });
  });
}

void lowrank_pack_rows(const LowRankFwd& a, int64_t begin, int64_t end) {
  with_dtype(a.dtype, [&](auto t) {
    with_scale(a.scale, [&](auto s) { pack_rows<decltype(t), decltype(s)::value>(a, begin, end); });
  });
}

void lowrank_fwd(const LowRankFwd& a, int64_t begin, int64_t end, float* scratch) {
  with_dtype(a.dtype, [&](auto t) {
    with_scale(a.scale, [&](auto s) {
      using T = decltype(t);
      constexpr int S = decltype(s)::value;
      if (S != 0 && a.stream) return lowrank_tasks<T, S, Samples<T, S != 0>>(a, begin, end, scratch);
      lowrank_tasks<T, S, Samples<T, false>>(a, begin, end, scratch);
    });
  });
}

}  // namespace
}  // namespace lkca::cpu

#define LKCA_LOWRANK_FWD_TABLE                                                                       \
  {lowrank_weight_groups, lowrank_weight_group_floats, lowrank_packed_row_floats, lowrank_fwd_tasks, \
   lowrank_fwd_scratch,   lowrank_pack_weight,         lowrank_pack_rows,         lowrank_fwd}
