// Eight floats in an AVX2 register, with FMA and F16C. Included after target_begin.h.
#pragma once

#include "cpu/storage.h"

#define LKCA_UNROLL _Pragma("GCC unroll 64")

namespace lkca::cpu {
namespace {

struct Vec {
  static constexpr int N = 8;
  __m256 v;

  static Vec set1(float x) { return {_mm256_set1_ps(x)}; }
  static Vec load(const float* p) { return {_mm256_loadu_ps(p)}; }
  static Vec load(const BF16* p) {
    const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    return {_mm256_castsi256_ps(_mm256_slli_epi32(wide, 16))};
  }
  static Vec load(const F16* p) { return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))}; }
  void store(float* p) const { _mm256_storeu_ps(p, v); }
  void store(BF16* p) const { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), to_bf16()); }
  void store(F16* p) const { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), to_f16()); }
  void store_low_words(uint16_t* p) const {
    const __m256i words = _mm256_and_si256(_mm256_castps_si256(v), _mm256_set1_epi32(0xffff));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p),
                     _mm_packus_epi32(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1)));
  }
  // Non-temporal; p is aligned to the size of the store.
  void stream(float* p) const { _mm256_stream_ps(p, v); }
  void stream(BF16* p) const { _mm_stream_si128(reinterpret_cast<__m128i*>(p), to_bf16()); }
  void stream(F16* p) const { _mm_stream_si128(reinterpret_cast<__m128i*>(p), to_f16()); }
  float sum() const {
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
  }

  __m128i to_f16() const { return _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT); }
  __m128i to_bf16() const {
    const __m256i bits = _mm256_castps_si256(v);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
    const __m256 nan = _mm256_cmp_ps(v, v, _CMP_UNORD_Q);
    rounded = _mm256_castps_si256(_mm256_blendv_ps(_mm256_castsi256_ps(rounded), _mm256_castsi256_ps(quiet), nan));
    rounded = _mm256_srli_epi32(rounded, 16);
    return _mm_packus_epi32(_mm256_castsi256_si128(rounded), _mm256_extracti128_si256(rounded, 1));
  }
};

inline Vec operator+(Vec a, Vec b) { return {_mm256_add_ps(a.v, b.v)}; }
inline Vec operator*(Vec a, Vec b) { return {_mm256_mul_ps(a.v, b.v)}; }
inline Vec fma(Vec a, Vec b, Vec c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
inline Vec operator-(Vec a, Vec b) { return {_mm256_sub_ps(a.v, b.v)}; }
inline Vec operator/(Vec a, Vec b) { return {_mm256_div_ps(a.v, b.v)}; }
inline Vec magnitude(Vec a) { return {_mm256_andnot_ps(_mm256_set1_ps(-0.f), a.v)}; }
inline Vec at_least(Vec bound, Vec a) { return {_mm256_max_ps(bound.v, a.v)}; }  // these two keep a NaN in a
inline Vec at_most(Vec bound, Vec a) { return {_mm256_min_ps(bound.v, a.v)}; }
inline Vec where_positive(Vec a, Vec b) {  // a NaN counts as positive, as to PyTorch
  return {_mm256_and_ps(_mm256_cmp_ps(a.v, _mm256_setzero_ps(), _CMP_NLE_UQ), b.v)};
}
// 2^n of a = 1.5 * 2^23 + n, n from -126 to 127.
inline Vec power_of_two(Vec a) {
  const __m256i bits = _mm256_slli_epi32(_mm256_castps_si256(a.v), 23);
  return {_mm256_castsi256_ps(_mm256_add_epi32(bits, _mm256_set1_epi32(0x3f800000)))};
}
inline void stream_fence() { _mm_sfence(); }

inline __m128i narrow(Vec a, BF16) { return a.to_bf16(); }
inline __m128i narrow(Vec a, F16) { return a.to_f16(); }

template <bool STREAM, typename T>
inline void store_pair(Vec a, Vec b, T* p) {
  const __m256i both = _mm256_set_m128i(narrow(b, T{}), narrow(a, T{}));
  if constexpr (STREAM)
    _mm256_stream_si256(reinterpret_cast<__m256i*>(p), both);
  else
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), both);
}

constexpr bool kBf16Dot = false;
inline Vec pair_bf16(const Vec& low, const Vec&) { return low; }  // these two are never called
inline Vec dot_bf16(const float*, const Vec&, const Vec& c) { return c; }

constexpr int kAccumulators = 12;

// Pixels are held in the order that lets unpack instructions, which work inside 128 bits, put them in place.
template <int S>
constexpr int lane_pixel(int l) {
  const int half = l / 4, q = l % 4;
  if (S == 2) return q < 2 ? 2 * half + q : 4 + 2 * half + q - 2;
  if (S == 4) return 2 * q + half;
  return l;
}

template <int S>
LKCA_INLINE Vec to_lane_order(Vec a) {
  if constexpr (S == 2 || S == 4) {
    const __m256i index = _mm256_setr_epi32(lane_pixel<S>(0), lane_pixel<S>(1), lane_pixel<S>(2), lane_pixel<S>(3),
                                            lane_pixel<S>(4), lane_pixel<S>(5), lane_pixel<S>(6), lane_pixel<S>(7));
    return {_mm256_permutevar8x32_ps(a.v, index)};
  } else {
    return a;
  }
}

// Rows a, b, c, d become, inside each half, the four columns.
inline void transpose4(Vec& a, Vec& b, Vec& c, Vec& d) {
  const __m256d ab0 = _mm256_castps_pd(_mm256_unpacklo_ps(a.v, b.v)),
                ab1 = _mm256_castps_pd(_mm256_unpackhi_ps(a.v, b.v));
  const __m256d cd0 = _mm256_castps_pd(_mm256_unpacklo_ps(c.v, d.v)),
                cd1 = _mm256_castps_pd(_mm256_unpackhi_ps(c.v, d.v));
  a.v = _mm256_castpd_ps(_mm256_unpacklo_pd(ab0, cd0));
  b.v = _mm256_castpd_ps(_mm256_unpackhi_pd(ab0, cd0));
  c.v = _mm256_castpd_ps(_mm256_unpacklo_pd(ab1, cd1));
  d.v = _mm256_castpd_ps(_mm256_unpackhi_pd(ab1, cd1));
}

// a[j] holds phase j of N pixels in lane order; afterwards a[0..S-1] are S*N consecutive samples of the shuffled row.
template <int S>
LKCA_INLINE void interleave(Vec (&a)[S]) {
  if constexpr (S == 2) {
    const __m256 low = _mm256_unpacklo_ps(a[0].v, a[1].v);
    a[1].v = _mm256_unpackhi_ps(a[0].v, a[1].v);
    a[0].v = low;
  } else if constexpr (S == 4) {
    transpose4(a[0], a[1], a[2], a[3]);
  } else if constexpr (S == 8) {
    transpose4(a[0], a[1], a[2], a[3]);
    transpose4(a[4], a[5], a[6], a[7]);
    Vec out[8];
    LKCA_UNROLL
    for (int q = 0; q < 4; ++q) {
      out[q].v = _mm256_permute2f128_ps(a[q].v, a[q + 4].v, 0x20);
      out[q + 4].v = _mm256_permute2f128_ps(a[q].v, a[q + 4].v, 0x31);
    }
    LKCA_UNROLL
    for (int q = 0; q < 8; ++q) a[q] = out[q];
  } else {
    alignas(32) float lanes[S][Vec::N], row[S * Vec::N];
    for (int j = 0; j < S; ++j) a[j].store(lanes[j]);
    for (int l = 0; l < Vec::N; ++l)
      for (int j = 0; j < S; ++j) row[l * S + j] = lanes[j][l];
    for (int k = 0; k < S; ++k) a[k] = Vec::load(row + k * Vec::N);
  }
}

}  // namespace
}  // namespace lkca::cpu
