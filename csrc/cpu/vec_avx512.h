// Sixteen floats in an AVX-512 register. Included after target_begin.h.
#pragma once

#include "cpu/storage.h"

#define LKCA_UNROLL _Pragma("GCC unroll 64")

namespace lkca::cpu {
namespace {

// Puts word l of a vector in the upper half of lane l: bf16 to fp32 in one permutation.
struct HighWords {
  alignas(64) int16_t index[32];
  constexpr HighWords() : index() {
    for (int l = 0; l < 32; ++l) index[l] = static_cast<int16_t>(l / 2);
  }
};

struct Vec {
  static constexpr int N = 16;
  __m512 v;

  static Vec set1(float x) { return {_mm512_set1_ps(x)}; }
  static Vec load(const float* p) { return {_mm512_loadu_ps(p)}; }
  static Vec load(const BF16* p) {
    static constexpr HighWords high;
    const __m512i words = _mm512_castsi256_si512(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
    const __m512i index = _mm512_load_si512(high.index);
    return {_mm512_castsi512_ps(_mm512_maskz_permutexvar_epi16(0xaaaaaaaa, index, words))};
  }
  static Vec load(const F16* p) { return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))}; }
  void store(float* p) const { _mm512_storeu_ps(p, v); }
  void store(BF16* p) const { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), to_bf16()); }
  void store(F16* p) const { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), to_f16()); }
  void store_low_words(uint16_t* p) const {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(_mm512_castps_si512(v)));
  }
  // Non-temporal; p is aligned to the size of the store.
  void stream(float* p) const { _mm512_stream_ps(p, v); }
  void stream(BF16* p) const { _mm256_stream_si256(reinterpret_cast<__m256i*>(p), to_bf16()); }
  void stream(F16* p) const { _mm256_stream_si256(reinterpret_cast<__m256i*>(p), to_f16()); }
  float sum() const {
    const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
  }

  __m256i to_f16() const { return _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT); }
#ifdef LKCA_BF16_DOT
  __m256i to_bf16() const { return (__m256i)_mm512_cvtneps_pbh(v); }
#else
  __m256i to_bf16() const {
    const __m512i bits = _mm512_castps_si512(v);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    const __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
    rounded = _mm512_mask_or_epi32(rounded, nan, bits, _mm512_set1_epi32(0x400000));
    return _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16));
  }
#endif
};

inline Vec operator+(Vec a, Vec b) { return {_mm512_add_ps(a.v, b.v)}; }
inline Vec operator*(Vec a, Vec b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline Vec fma(Vec a, Vec b, Vec c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
inline Vec operator-(Vec a, Vec b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline Vec operator/(Vec a, Vec b) { return {_mm512_div_ps(a.v, b.v)}; }
inline Vec magnitude(Vec a) { return {_mm512_abs_ps(a.v)}; }
inline Vec at_least(Vec bound, Vec a) { return {_mm512_max_ps(bound.v, a.v)}; }  // these two keep a NaN in a
inline Vec at_most(Vec bound, Vec a) { return {_mm512_min_ps(bound.v, a.v)}; }
inline Vec where_positive(Vec a, Vec b) {  // a NaN counts as positive, as to PyTorch
  return {_mm512_maskz_mov_ps(_mm512_cmp_ps_mask(a.v, _mm512_setzero_ps(), _CMP_NLE_UQ), b.v)};
}
// 2^n of a = 1.5 * 2^23 + n, n from -126 to 127.
inline Vec power_of_two(Vec a) {
  const __m512i bits = _mm512_slli_epi32(_mm512_castps_si512(a.v), 23);
  return {_mm512_castsi512_ps(_mm512_add_epi32(bits, _mm512_set1_epi32(0x3f800000)))};
}
inline void stream_fence() { _mm_sfence(); }

inline __m512i narrow_pair(Vec a, Vec b, BF16) {
#ifdef LKCA_BF16_DOT
  return (__m512i)_mm512_cvtne2ps_pbh(b.v, a.v);
#else
  return _mm512_inserti64x4(_mm512_castsi256_si512(a.to_bf16()), b.to_bf16(), 1);
#endif
}
inline __m512i narrow_pair(Vec a, Vec b, F16) {
  return _mm512_inserti64x4(_mm512_castsi256_si512(a.to_f16()), b.to_f16(), 1);
}

template <bool STREAM, typename T>
inline void store_pair(Vec a, Vec b, T* p) {
  const __m512i both = narrow_pair(a, b, T{});
  if constexpr (STREAM)
    _mm512_stream_si512(reinterpret_cast<__m512i*>(p), both);
  else
    _mm512_storeu_si512(p, both);
}

#ifdef LKCA_BF16_DOT
constexpr bool kBf16Dot = true;
// bf16 values of two ranks, held in fp32, as pairs.
inline Vec pair_bf16(Vec low, Vec high) {
  return {_mm512_castsi512_ps(
      _mm512_or_si512(_mm512_srli_epi32(_mm512_castps_si512(low.v), 16), _mm512_castps_si512(high.v)))};
}
// c + a.low * b.low + a.high * b.high, *a and each fp32 lane of b holding two bf16 values. With the intrinsic GCC gives
// the broadcast an instruction of its own, and the product then takes a third longer.
LKCA_INLINE Vec dot_bf16(const float* a, Vec b, Vec c) {
  asm("vdpbf16ps %2%{1to16%}, %1, %0" : "+v"(c.v) : "v"(b.v), "m"(*a));
  return c;
}
#else
constexpr bool kBf16Dot = false;
inline Vec pair_bf16(Vec low, Vec) { return low; }  // these two are never called
inline Vec dot_bf16(const float*, Vec, Vec c) { return c; }
#endif

constexpr int kAccumulators = 16;

// Pixels are held in the order that lets unpack instructions, which work inside 128 bits, put them in place.
template <int S>
constexpr int lane_pixel(int l) {
  const int quarter = l / 4, q = l % 4;
  if (S == 2) return q < 2 ? 2 * quarter + q : 8 + 2 * quarter + q - 2;
  if (S == 4 || S == 8) return 4 * q + quarter;
  return l;
}

template <int S>
struct LaneOrder {
  alignas(64) int32_t index[16];
  constexpr LaneOrder() : index() {
    for (int l = 0; l < 16; ++l) index[l] = lane_pixel<S>(l);
  }
};

template <int S>
LKCA_INLINE Vec to_lane_order(Vec a) {
  if constexpr (S == 2 || S == 4 || S == 8) {
    static constexpr LaneOrder<S> order;
    return {_mm512_permutexvar_ps(_mm512_load_si512(order.index), a.v)};
  } else {
    return a;
  }
}

// Rows a, b, c, d become, inside each quarter, the four columns.
inline void transpose4(Vec& a, Vec& b, Vec& c, Vec& d) {
  const __m512d ab0 = _mm512_castps_pd(_mm512_unpacklo_ps(a.v, b.v)),
                ab1 = _mm512_castps_pd(_mm512_unpackhi_ps(a.v, b.v));
  const __m512d cd0 = _mm512_castps_pd(_mm512_unpacklo_ps(c.v, d.v)),
                cd1 = _mm512_castps_pd(_mm512_unpackhi_ps(c.v, d.v));
  a.v = _mm512_castpd_ps(_mm512_unpacklo_pd(ab0, cd0));
  b.v = _mm512_castpd_ps(_mm512_unpackhi_pd(ab0, cd0));
  c.v = _mm512_castpd_ps(_mm512_unpacklo_pd(ab1, cd1));
  d.v = _mm512_castpd_ps(_mm512_unpackhi_pd(ab1, cd1));
}

// For output vector k of an S-fold interleave: which lane of which source each of its lanes comes from.
template <int S>
struct Sources {
  alignas(64) int32_t pixel[S][16];  // with +16 where the phase is odd, for two-source permutations
  uint16_t pair[S][(S + 1) / 2];     // lanes that come from sources 2*p and 2*p + 1
  constexpr Sources() : pixel(), pair() {
    for (int k = 0; k < S; ++k)
      for (int l = 0; l < 16; ++l) {
        const int sample = k * 16 + l, phase = sample % S;
        pixel[k][l] = sample / S + (phase % 2 ? 16 : 0);
        pair[k][phase / 2] = static_cast<uint16_t>(pair[k][phase / 2] | 1u << l);
      }
  }
};

// a[j] holds phase j of N pixels in lane order; afterwards a[0..S-1] are S*N consecutive samples of the shuffled row.
template <int S>
LKCA_INLINE void interleave(Vec (&a)[S]) {
  if constexpr (S == 2) {
    const __m512 low = _mm512_unpacklo_ps(a[0].v, a[1].v);
    a[1].v = _mm512_unpackhi_ps(a[0].v, a[1].v);
    a[0].v = low;
  } else if constexpr (S == 4) {
    transpose4(a[0], a[1], a[2], a[3]);
  } else if constexpr (S == 8) {
    transpose4(a[0], a[1], a[2], a[3]);
    transpose4(a[4], a[5], a[6], a[7]);
    const __m512i low = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11),
                  high = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
    Vec out[8];
    LKCA_UNROLL
    for (int q = 0; q < 4; ++q) {
      const __m512d first = _mm512_castps_pd(a[q].v), second = _mm512_castps_pd(a[q + 4].v);
      out[2 * q].v = _mm512_castpd_ps(_mm512_permutex2var_pd(first, low, second));
      out[2 * q + 1].v = _mm512_castpd_ps(_mm512_permutex2var_pd(first, high, second));
    }
    LKCA_UNROLL
    for (int q = 0; q < 8; ++q) a[q] = out[q];
  } else {
    static constexpr Sources<S> from;
    Vec out[S];
    LKCA_UNROLL
    for (int k = 0; k < S; ++k) {
      const __m512i index = _mm512_load_si512(from.pixel[k]);
      __m512 v = _mm512_permutex2var_ps(a[0].v, index, a[1].v);
      LKCA_UNROLL
      for (int p = 1; p < (S + 1) / 2; ++p) {
        const __m512 pair = 2 * p + 1 < S ? _mm512_permutex2var_ps(a[2 * p].v, index, a[(2 * p + 1) % S].v)
                                          : _mm512_permutexvar_ps(index, a[2 * p].v);
        v = _mm512_mask_mov_ps(v, from.pair[k][p], pair);
      }
      out[k].v = v;
    }
    LKCA_UNROLL
    for (int k = 0; k < S; ++k) a[k] = out[k];
  }
}

}  // namespace
}  // namespace lkca::cpu
