// Pieces that several kernels use, on top of the variant's Vec (vec_<isa>.h, included before). Internal linkage only.
#pragma once

#include "cpu/kernels.h"

namespace lkca::cpu {
namespace {

constexpr int N = Vec::N;

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Fetches a line into the second-level cache, or into the first in order to write it.
inline void prefetch([[maybe_unused]] const void* p) {
#if defined(__GNUC__) || defined(__clang__)
  __builtin_prefetch(p, 0, 2);
#endif
}
inline void prefetch_to_write([[maybe_unused]] const void* p) {
#if defined(__GNUC__) || defined(__clang__)
  __builtin_prefetch(p, 1, 3);
#endif
}

inline int64_t min_of(int64_t a, int64_t b) { return a < b ? a : b; }

template <typename T>
inline Vec load_part(const T* p, int64_t count) {
  if (count >= N) return Vec::load(p);
  T full[N] = {};
  for (int64_t l = 0; l < count; ++l) full[l] = p[l];
  return Vec::load(full);
}

template <typename T>
inline void store_part(const Vec& v, T* p, int64_t count) {
  if (count >= N) return v.store(p);
  T full[N];
  v.store(full);
  for (int64_t l = 0; l < count; ++l) p[l] = full[l];
}

// Calls f.template operator()<T>() with the storage type of `dtype`.
template <typename F>
inline void with_dtype(DType dtype, F f) {
  if constexpr (kBf16Dot) {
    f(BF16{});  // all that these variants serve
  } else {
    if (dtype == DType::f32) return f(float{});
    if (dtype == DType::bf16) return f(BF16{});
    f(F16{});
  }
}

// Whether dot products of pairs serve a call in T, and what products read then: bf16, else fp32.
template <typename T>
struct Pairs {
  static constexpr bool value = false;
  using Operand = float;
};
#ifdef LKCA_BF16_DOT
template <>
struct Pairs<BF16> {
  static constexpr bool value = true;
  using Operand = BF16;
};
#endif

// c + *a * b; of pairs, in fp32-sized bits, both products.
template <bool PAIRS>
LKCA_INLINE Vec multiply_add(const float* a, const Vec& b, const Vec& c) {
  if constexpr (PAIRS)
    return dot_bf16(a, b, c);
  else
    return fma(Vec::set1(*a), b, c);
}

// A number as a type.
template <int V>
struct Constant {
  static constexpr int value = V;
};

// f(Constant<V>) of the V that `value` is; of the last one where it is no other.
template <int V, int... MORE, typename F>
inline auto with_constant(int64_t value, const F& f) {
  if constexpr (sizeof...(MORE) == 0)
    return f(Constant<V>{});
  else
    return value == V ? f(Constant<V>{}) : with_constant<MORE...>(value, f);
}

// Scales with a kernel of their own; every other scale runs the one named 0. A switch: by with_constant GCC inlines
// the forward otherwise, and an HR or LR skip took 2 to 3 % longer (Zen 4).
template <typename F>
inline auto with_scale(int scale, F f) {
  switch (scale) {
    case 2:
      return f(Constant<2>{});
    case 3:
      return f(Constant<3>{});
    case 4:
      return f(Constant<4>{});
    case 5:
      return f(Constant<5>{});
    case 8:
      return f(Constant<8>{});
    default:
      return f(Constant<0>{});
  }
}

// Hands out scratch memory; without any it only counts.
struct Arena {
  float* base;
  int64_t used;
  float* take(int64_t floats) {
    float* piece = base ? base + used : nullptr;
    used += ceil_div(floats, 16) * 16;
    return piece;
  }
};

// ---- bicubic skip ----------------------------------------------------------------------------------------------

constexpr int kBorder = 4;  // floats before sample 0 of a line; two are used, four keep the alignment

inline int64_t line_floats(int64_t width) { return ceil_div(width, N) * N + 3 * N; }

// The vertical half: line[kBorder + x] = the input plane interpolated at row y, phase i, with two border samples on
// either side. `line` has line_floats(width) floats.
template <typename T>
inline void bicubic_line(const T* plane, int64_t height, int64_t width, int64_t y, const BicubicTaps& taps,
                         Bicubic convention, float* line) {
  const T* row[4];
  Vec weight[4];
  for (int k = 0; k < 4; ++k) {
    row[k] = plane + bicubic_border(y + taps.first + k, height, convention) * width;
    weight[k] = Vec::set1(taps.weight[k]);
  }
  float* x0 = line + kBorder;
  for (int64_t x = 0; x < width; x += N) {
    Vec sum = weight[0] * load_part(row[0] + x, width - x);
    for (int k = 1; k < 4; ++k) sum = fma(weight[k], load_part(row[k] + x, width - x), sum);
    sum.store(x0 + x);
  }
  for (int64_t x = -2; x < 0; ++x) x0[x] = x0[bicubic_border(x, width, convention)];
  for (int64_t x = width; x < width + 2; ++x) x0[x] = x0[bicubic_border(x, width, convention)];
}

// The horizontal half for one tile of pixels: acc[j] += phase j, in lane order.
template <int S>
LKCA_INLINE void add_bicubic_tile(const float* line_at_tile, const BicubicTaps* taps, Vec (&acc)[S]) {
  Vec shifted[5];
  LKCA_UNROLL
  for (int d = 0; d < 5; ++d) shifted[d] = to_lane_order<S>(Vec::load(line_at_tile + kBorder - 2 + d));
  LKCA_UNROLL
  for (int j = 0; j < S; ++j) {
    const int first = 2 * j + 1 < S ? 0 : 1;  // taps[j].first + 2
    for (int k = 0; k < 4; ++k) acc[j] = fma(Vec::set1(taps[j].weight[k]), shifted[first + k], acc[j]);
  }
}

// The horizontal half of a whole row, any scale: out[x * s + j].
inline void bicubic_row(const float* line, int64_t width, const BicubicTable& table, float* out) {
  const int s = table.scale;
  for (int j = 0; j < s; ++j) {
    const BicubicTaps& taps = table.taps[j];
    const float* source = line + kBorder + taps.first;
    for (int64_t x = 0; x < width; ++x)
      out[x * s + j] = taps.weight[0] * source[x] + taps.weight[1] * source[x + 1] + taps.weight[2] * source[x + 2] +
                       taps.weight[3] * source[x + 3];
  }
}

// Stores S consecutive vectors; 16-bit types two at a time, so that a store fills whole registers. Not where S is odd:
// every other tile would then begin in the middle of one, which streaming stores do not take.
template <bool STREAM, int S, typename T>
LKCA_INLINE void put_all(const Vec (&v)[S], T* p) {
  constexpr int PAIRED = sizeof(T) == 2 && S % 2 == 0 ? S : 0;
  if constexpr (PAIRED > 0) {
    LKCA_UNROLL
    for (int j = 0; j < PAIRED; j += 2) store_pair<STREAM>(v[j], v[j + 1], p + j * N);
  }
  LKCA_UNROLL
  for (int j = PAIRED; j < S; ++j) {
    if constexpr (STREAM)
      v[j].stream(p + j * N);
    else
      v[j].store(p + j * N);
  }
}

// out = gate * row + skip over one shuffled row held in fp32 (scales without a kernel of their own).
template <typename T, typename U, typename Put>
inline void finish_row(const float* row, int64_t count, float gate, const U* skip, T* out, const Put& put) {
  const Vec g = Vec::set1(gate);
  for (int64_t x = 0; x < count; x += N) {
    Vec v = load_part(row + x, count - x) * g;
    if (skip) v = v + load_part(skip + x, count - x);
    put(v, out + x, count - x);
  }
}
template <typename T, typename U>
inline void finish_row(const float* row, int64_t count, float gate, const U* skip, T* out) {
  finish_row(row, count, gate, skip, out, [](const Vec& v, T* to, int64_t left) { store_part(v, to, left); });
}

}  // namespace
}  // namespace lkca::cpu
