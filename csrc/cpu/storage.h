// The three storage types of the operators and their exact conversions to and from fp32 (round to nearest even).
// Everything has internal linkage: see kernels.h.
#pragma once

#include <stdint.h>
#include <string.h>

// For what innermost loops call: in files with so many kernels GCC's budget for inlining runs out, and vectors that are
// passed on go through memory. And for loops that need all registers, away from what calls them.
#if defined(__GNUC__) || defined(__clang__)
#define LKCA_INLINE inline __attribute__((always_inline))
#define LKCA_NO_INLINE inline __attribute__((noinline))
#else
#define LKCA_INLINE inline
#define LKCA_NO_INLINE inline
#endif

namespace lkca::cpu {
namespace {

struct BF16 {
  uint16_t bits;
};
struct F16 {
  uint16_t bits;
};

[[maybe_unused]] inline uint32_t float_bits(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  return bits;
}

[[maybe_unused]] inline float bits_float(uint32_t bits) {
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}

[[maybe_unused]] inline float to_float(float x) { return x; }

[[maybe_unused]] inline float to_float(BF16 x) { return bits_float(static_cast<uint32_t>(x.bits) << 16); }

[[maybe_unused]] inline float to_float(F16 x) {
  const uint32_t sign = (x.bits & 0x8000u) << 16;
  const uint32_t magnitude = x.bits & 0x7fffu;
  if (magnitude >= 0x7c00u) return bits_float(sign | 0x7f800000u | (magnitude & 0x3ffu) << 13);
  // Scaling by 2^112 moves the exponent bias and normalises subnormals.
  return bits_float(sign | float_bits(bits_float(magnitude << 13) * 0x1p112f));
}

template <typename T>
T from_float(float x);

template <>
[[maybe_unused]] inline float from_float<float>(float x) {
  return x;
}

template <>
[[maybe_unused]] inline BF16 from_float<BF16>(float x) {
  const uint32_t bits = float_bits(x);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return {static_cast<uint16_t>(bits >> 16 | 0x40u)};
  return {static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16)};
}

template <>
[[maybe_unused]] inline F16 from_float<F16>(float x) {
  const uint32_t bits = float_bits(x);
  const uint16_t sign = static_cast<uint16_t>(bits >> 16 & 0x8000u);
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return {static_cast<uint16_t>(sign | 0x7e00u)};
  if (magnitude >= 0x47800000u) return {static_cast<uint16_t>(sign | 0x7c00u)};
  if (magnitude < 0x38800000u) {  // below the normal range: let the addition round to a multiple of 2^-24
    const uint32_t rounded = float_bits(bits_float(magnitude) + 0.5f) - float_bits(0.5f);
    return {static_cast<uint16_t>(sign | rounded)};
  }
  return {static_cast<uint16_t>(sign | (magnitude - 0x38000000u + 0xfffu + (magnitude >> 13 & 1u)) >> 13)};
}

}  // namespace
}  // namespace lkca::cpu
