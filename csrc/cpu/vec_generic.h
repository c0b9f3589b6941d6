// Plain C++ vector of eight floats: the variant for every processor without AVX2.
#pragma once

#include "cpu/storage.h"

#define LKCA_UNROLL

namespace lkca::cpu {
namespace {

struct Vec {
  static constexpr int N = 8;
  float v[N];

  static Vec set1(float x) {
    Vec r;
    for (int l = 0; l < N; ++l) r.v[l] = x;
    return r;
  }
  template <typename T>
  static Vec load(const T* p) {
    Vec r;
    for (int l = 0; l < N; ++l) r.v[l] = to_float(p[l]);
    return r;
  }
  template <typename T>
  void store(T* p) const {
    for (int l = 0; l < N; ++l) p[l] = from_float<T>(v[l]);
  }
  void store_low_words(uint16_t* p) const {
    for (int l = 0; l < N; ++l) p[l] = static_cast<uint16_t>(float_bits(v[l]));
  }
  template <typename T>
  void stream(T* p) const {
    store(p);
  }
  float sum() const {
    float s = 0;
    for (int l = 0; l < N; ++l) s += v[l];
    return s;
  }
};

template <typename F>
inline Vec lane_by_lane(const Vec& a, const Vec& b, const F& f) {
  Vec r;
  for (int l = 0; l < Vec::N; ++l) r.v[l] = f(a.v[l], b.v[l]);
  return r;
}
inline Vec operator+(const Vec& a, const Vec& b) {
  return lane_by_lane(a, b, [](float x, float y) { return x + y; });
}
inline Vec operator-(const Vec& a, const Vec& b) {
  return lane_by_lane(a, b, [](float x, float y) { return x - y; });
}
inline Vec operator*(const Vec& a, const Vec& b) {
  return lane_by_lane(a, b, [](float x, float y) { return x * y; });
}
inline Vec operator/(const Vec& a, const Vec& b) {
  return lane_by_lane(a, b, [](float x, float y) { return x / y; });
}
inline Vec fma(const Vec& a, const Vec& b, const Vec& c) { return a * b + c; }
inline Vec magnitude(const Vec& a) {
  return lane_by_lane(a, a, [](float x, float) { return bits_float(float_bits(x) & 0x7fffffffu); });
}
inline Vec at_least(const Vec& bound, const Vec& a) {  // these two keep a NaN in a
  return lane_by_lane(bound, a, [](float x, float y) { return x > y ? x : y; });
}
inline Vec at_most(const Vec& bound, const Vec& a) {
  return lane_by_lane(bound, a, [](float x, float y) { return x < y ? x : y; });
}
inline Vec where_positive(const Vec& a, const Vec& b) {  // a NaN counts as positive, as to PyTorch
  return lane_by_lane(a, b, [](float x, float y) { return x <= 0 ? 0.f : y; });
}
// 2^n of a = 1.5 * 2^23 + n, n from -126 to 127.
inline Vec power_of_two(const Vec& a) {
  return lane_by_lane(a, a, [](float x, float) { return bits_float((float_bits(x) << 23) + 0x3f800000u); });
}
inline void stream_fence() {}

template <bool STREAM, typename T>
inline void store_pair(const Vec& a, const Vec& b, T* p) {
  a.store(p);
  b.store(p + Vec::N);
}

constexpr bool kBf16Dot = false;
inline Vec pair_bf16(const Vec& low, const Vec&) { return low; }  // these two are never called
inline Vec dot_bf16(const float*, const Vec&, const Vec& c) { return c; }

constexpr int kAccumulators = 8;

// Pixel held by lane l, and its inverse as a permutation of a vector in natural order.
template <int S>
constexpr int lane_pixel(int l) {
  return l;
}
template <int S>
LKCA_INLINE Vec to_lane_order(const Vec& a) {
  return a;
}

// a[j] holds phase j of N pixels in lane order; afterwards a[0..S-1] are S*N consecutive samples of the shuffled row.
template <int S>
LKCA_INLINE void interleave(Vec (&a)[S]) {
  float row[S * Vec::N];
  for (int j = 0; j < S; ++j)
    for (int l = 0; l < Vec::N; ++l) row[l * S + j] = a[j].v[l];
  for (int k = 0; k < S; ++k) a[k] = Vec::load(row + k * Vec::N);
}

}  // namespace
}  // namespace lkca::cpu
