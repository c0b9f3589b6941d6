// What a kernel body needs of the machine: storage types, 16-byte vectors, checked global loads and stores.
// The same bodies are compiled by nvcc for the card and by g++ for the emulated grid (emulation.h) of the
// CPU tests; whatever differs between the two is in this file and in grid.h.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#define LKCA_HD __host__ __device__ __forceinline__
#define LKCA_BODY __device__ __forceinline__
#define LKCA_UNROLL _Pragma("unroll")
#define LKCA_UNROLL4 _Pragma("unroll 4")
#define LKCA_NO_UNROLL _Pragma("unroll 1")
#else
#define LKCA_HD inline
#define LKCA_BODY inline
#define LKCA_UNROLL
#define LKCA_UNROLL4
#define LKCA_NO_UNROLL
#include "emulation.h"
#endif

namespace lkca::cuda {

// ---- storage types: 16 bits are kept as bits, arithmetic is in float ----------------------------------
struct half_t {
  uint16_t bits;
};
struct bfloat_t {
  uint16_t bits;
};

LKCA_HD uint32_t float_bits(float value) {
  union {
    float f;
    uint32_t u;
  } pun = {value};
  return pun.u;
}

LKCA_HD float bits_float(uint32_t bits) {
  union {
    uint32_t u;
    float f;
  } pun = {bits};
  return pun.f;
}

LKCA_HD float magnitude(float value) { return bits_float(float_bits(value) & 0x7fffffffu); }

LKCA_HD float to_float(float value) { return value; }
LKCA_HD float to_float(bfloat_t value) { return bits_float(static_cast<uint32_t>(value.bits) << 16); }
LKCA_HD float to_float(half_t value) {
#if defined(__CUDA_ARCH__)
  return __half2float(__ushort_as_half(value.bits));
#else
  const uint32_t sign = static_cast<uint32_t>(value.bits & 0x8000u) << 16;
  const uint32_t exponent = (value.bits >> 10) & 0x1fu;
  const uint32_t mantissa = value.bits & 0x3ffu;
  if (exponent == 0x1fu) return bits_float(sign | 0x7f800000u | (mantissa << 13));
  if (exponent == 0) return bits_float(sign | float_bits(static_cast<float>(mantissa) * 5.9604644775390625e-8f));
  return bits_float(sign | ((exponent + 112u) << 23) | (mantissa << 13));
#endif
}

template <class T>
LKCA_HD T from_float(float value);
template <>
LKCA_HD float from_float<float>(float value) {
  return value;
}
template <>
LKCA_HD bfloat_t from_float<bfloat_t>(float value) {
#if defined(__CUDA_ARCH__)
  return {__bfloat16_as_ushort(__float2bfloat16_rn(value))};
#else
  const uint32_t bits = float_bits(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return {0x7fff};  // NaN
  return {static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)};
#endif
}
template <>
LKCA_HD half_t from_float<half_t>(float value) {
#if defined(__CUDA_ARCH__)
  return {__half_as_ushort(__float2half_rn(value))};
#else
  const uint32_t bits = float_bits(value);
  const uint16_t sign = static_cast<uint16_t>((bits >> 16) & 0x8000u);
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return {0x7fff};                                  // NaN
  if (magnitude >= 0x477ff000u) return {static_cast<uint16_t>(sign | 0x7c00u)};  // rounds to infinity
  if (magnitude < 0x38800000u) {                                                 // subnormal half
    const float shifted = bits_float(magnitude) + 0.5f;                          // ulp of 0.5f is 2^-24
    return {static_cast<uint16_t>(sign | (float_bits(shifted) - 0x3f000000u))};
  }
  const uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u);
  return {static_cast<uint16_t>(sign | ((rounded - 0x38000000u) >> 13))};
#endif
}

// ---- vectors of 16 bytes --------------------------------------------------------------------------------
struct alignas(16) Vec16 {
  uint32_t word[4];
};

template <class T>
constexpr int kVec = 16 / static_cast<int>(sizeof(T));

LKCA_HD void unpack(const Vec16& vec, float (&out)[4], float) {
  LKCA_UNROLL
  for (int e = 0; e < 4; ++e) out[e] = bits_float(vec.word[e]);
}
template <class T>
LKCA_HD void unpack(const Vec16& vec, float (&out)[8], T) {
  LKCA_UNROLL
  for (int e = 0; e < 4; ++e) {
    out[2 * e] = to_float(T{static_cast<uint16_t>(vec.word[e] & 0xffffu)});
    out[2 * e + 1] = to_float(T{static_cast<uint16_t>(vec.word[e] >> 16)});
  }
}
LKCA_HD Vec16 pack(const float (&in)[4], float) {
  Vec16 vec;
  LKCA_UNROLL
  for (int e = 0; e < 4; ++e) vec.word[e] = float_bits(in[e]);
  return vec;
}
template <class T>
LKCA_HD Vec16 pack(const float (&in)[8], T) {
  Vec16 vec;
  LKCA_UNROLL
  for (int e = 0; e < 4; ++e) {
    const uint32_t low = from_float<T>(in[2 * e]).bits;
    const uint32_t high = from_float<T>(in[2 * e + 1]).bits;
    vec.word[e] = low | (high << 16);
  }
  return vec;
}

// ---- global memory ----------------------------------------------------------------------------------------
// Every access of a body to device memory goes through these, or the grid's copy(): on the emulated grid they check
// that the address lies in a tensor of the call and is aligned, and count the bytes.
template <class T>
LKCA_BODY T load(const T* p) {
#if !defined(__CUDACC__)
  emulation::on_read(p, sizeof(T));
#endif
  return *p;
}

template <class T>
LKCA_BODY void store(T* p, T value) {
#if !defined(__CUDACC__)
  emulation::on_write(p, sizeof(T));
#endif
  *p = value;
}

template <class T>
LKCA_BODY Vec16 load16(const T* p) {
#if !defined(__CUDACC__)
  emulation::on_read(p, 16);
#endif
  return *reinterpret_cast<const Vec16*>(p);
}

/// For HR tensors, which are read once: keep them from pushing the weights and z out of L2.
template <class T>
LKCA_BODY Vec16 load16_once(const T* p) {
#if defined(__CUDACC__)
  const uint4 v = __ldcs(reinterpret_cast<const uint4*>(p));
  return {{v.x, v.y, v.z, v.w}};
#else
  return load16(p);
#endif
}

template <class T>
LKCA_BODY void store16(T* p, const Vec16& vec) {
#if !defined(__CUDACC__)
  emulation::on_write(p, 16);
#endif
  *reinterpret_cast<Vec16*>(p) = vec;
}

/// For HR tensors, which are written once and not read again by the kernel.
template <class T>
LKCA_BODY void store16_once(T* p, const Vec16& vec) {
#if defined(__CUDACC__)
  __stcs(reinterpret_cast<uint4*>(p), make_uint4(vec.word[0], vec.word[1], vec.word[2], vec.word[3]));
#else
  store16(p, vec);
#endif
}

// ---- integer arithmetic -----------------------------------------------------------------------------------
LKCA_HD int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
template <class I>
LKCA_HD I smaller(I a, I b) {
  return a < b ? a : b;
}
template <class I>
LKCA_HD I larger(I a, I b) {
  return a > b ? a : b;
}

/// Keeps the compiler from computing what depends on `value` ahead of a loop, where it would hold registers, and
/// `value` itself anew within.
LKCA_BODY void compute_here(int& value) {
#if defined(__CUDACC__)
  asm volatile("" : "+r"(value));
#else
  (void)value;
#endif
}

/// Four of the bytes of a (0 ... 3) and b (4 ... 7): those that the lower four hexadecimal digits of `selector` name.
LKCA_BODY uint32_t select_bytes(uint32_t a, uint32_t b, uint32_t selector) {
#if defined(__CUDACC__)
  return __byte_perm(a, b, selector);
#else
  const uint64_t both = a | uint64_t{b} << 32;
  uint32_t selected = 0;
  for (int i = 0; i < 4; ++i) selected |= static_cast<uint32_t>(both >> 8 * (selector >> 4 * i & 7) & 0xff) << 8 * i;
  return selected;
#endif
}

/// Division of 0 <= n < 2^31 by a run-time divisor (Granlund and Montgomery, PLDI 1994): a multiplication
/// and a shift in place of the twenty instructions of a division.
struct FastDiv {
  uint32_t divisor = 1, multiplier = 1, shift = 0;

  FastDiv() = default;
  explicit FastDiv(int64_t d) : divisor(static_cast<uint32_t>(d)) {
    while ((uint64_t{1} << shift) < divisor) ++shift;
    multiplier = static_cast<uint32_t>(((uint64_t{1} << 32) * ((uint64_t{1} << shift) - divisor)) / divisor + 1);
  }
  LKCA_HD int div(int n) const {
#if defined(__CUDA_ARCH__)
    const uint32_t high = __umulhi(multiplier, static_cast<uint32_t>(n));
#else
    const uint32_t high = static_cast<uint32_t>((uint64_t{multiplier} * static_cast<uint32_t>(n)) >> 32);
#endif
    return static_cast<int>((high + static_cast<uint32_t>(n)) >> shift);
  }
};

}  // namespace lkca::cuda
