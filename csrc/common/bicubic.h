// Bicubic upsampling by an integer factor: the taps of one output phase and the border rule. Host and device.
//
// Output sample X = x * scale + phase sits at x + (phase + 0.5) / scale - 0.5 in input pixels (half-pixel centres), so
// a phase has the same four taps at every x: input samples x + first .. x + first + 3, with first = -2 or -1.
// Kernel: R. Keys, "Cubic convolution interpolation for digital image processing", IEEE TASSP 29(6), 1981.
#pragma once

#include <cstdint>

#if defined(__CUDACC__) || defined(__HIPCC__)
#define LKCA_HOST_DEVICE static __host__ __device__ __forceinline__
#else
// static: a copy of its own for each translation unit, some of which are compiled for newer instruction sets.
#define LKCA_HOST_DEVICE static inline
#endif

namespace lkca {

// matlab: a = -0.5, symmetric border (imresize). torch: a = -0.75, clamped border (F.interpolate).
enum class Bicubic : int { matlab = 0, torch = 1 };

struct BicubicTaps {
  int first;  // input offset of weight[0]: -2 or -1
  float weight[4];
};

LKCA_HOST_DEVICE double keys_cubic(double distance, double a) {
  const double d = distance < 0 ? -distance : distance;
  if (d <= 1) return ((a + 2) * d - (a + 3)) * d * d + 1;
  if (d < 2) return a * (((d - 5) * d + 8) * d - 4);
  return 0;
}

LKCA_HOST_DEVICE BicubicTaps bicubic_taps(int phase, int scale, Bicubic convention) {
  const double a = convention == Bicubic::matlab ? -0.5 : -0.75;
  const int twice = 2 * phase + 1 - scale;  // 2 * scale * (position - x), exact in integers
  const int floor = twice < 0 ? -1 : 0;
  const double t = static_cast<double>(twice) / (2.0 * scale) - floor;
  BicubicTaps taps;
  taps.first = floor - 1;
  for (int k = 0; k < 4; ++k) taps.weight[k] = static_cast<float>(keys_cubic(t - (k - 1), a));
  return taps;
}

// Index of the sample that stands at position i of a line of n samples, i outside [0, n) included.
LKCA_HOST_DEVICE int64_t bicubic_border(int64_t i, int64_t n, Bicubic convention) {
  if (convention == Bicubic::torch) return i < 0 ? 0 : (i >= n ? n - 1 : i);
  while (i < 0 || i >= n) i = i < 0 ? -1 - i : 2 * n - 1 - i;  // repeated reflection, edge sample repeated
  return i;
}

}  // namespace lkca
