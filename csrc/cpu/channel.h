// Sums over pixels and per-channel scaling, for channel_gate and channel_attention.
#pragma once

#include "cpu/kernels_common.h"

namespace lkca::cpu {
namespace {

// The sums over pixels of U vectors' channels, of which `width` are there, `inner` floats from one pixel to the next.
// They stay in registers: what was stored as a part of a vector cannot be forwarded to the next pixel's load.
template <int U, typename T>
inline void sum_columns(const T* x, const T* y, int64_t pixels, int64_t inner, int64_t width, float* to) {
  Vec sum[U];
  LKCA_UNROLL
  for (int u = 0; u < U; ++u) sum[u] = Vec::set1(0.f);
  // The last vector may reach into the next pixel, whose samples are not stored, but not beyond the last one.
  const int64_t beyond = U * N > width ? ceil_div(U * N - width, inner) : 0;
  for (int64_t p = 0; p < pixels; ++p) {
    LKCA_UNROLL
    for (int u = 0; u < U; ++u) {
      const int64_t at = p * inner + u * N, count = p + beyond < pixels ? N : width - u * N;
      const Vec v = load_part(x + at, count);
      sum[u] = y ? fma(v, load_part(y + at, count), sum[u]) : sum[u] + v;
    }
  }
  for (int u = 0; u < U; ++u) store_part(sum[u], to + u * N, width - u * N);
}

template <typename T>
void channel_sum_chunks(const ChannelArgs& a, int64_t begin, int64_t end) {
  for (int64_t task = begin; task < end; ++task) {
    const int64_t outer = task / a.chunks, chunk = task % a.chunks;
    const int64_t first = chunk * a.chunk_pixels, pixels = min_of(a.chunk_pixels, a.pixels - first);
    const int64_t offset = (outer * a.pixels + first) * a.inner;
    const T* x = static_cast<const T*>(a.x) + offset;
    const T* y = a.y ? static_cast<const T*>(a.y) + offset : nullptr;
    float* to = a.partial + task * a.inner;
    if (a.inner == 1) {
      Vec sum[4];
      for (Vec& s : sum) s = Vec::set1(0.f);
      for (int64_t k = 0; k < pixels; k += 4 * N)
        for (int u = 0; u < 4; ++u) {
          const int64_t at = k + u * N, count = pixels - at;
          if (count <= 0) break;
          const Vec v = load_part(x + at, count);
          sum[u] = y ? fma(v, load_part(y + at, count), sum[u]) : sum[u] + v;
        }
      to[0] = ((sum[0] + sum[1]) + (sum[2] + sum[3])).sum();
    } else {
      for (int64_t k = 0; k < a.inner; k += 4 * N) {
        const T* y_at = y ? y + k : nullptr;
        const int64_t vectors = min_of(4, ceil_div(a.inner - k, N));
        if (vectors == 1) sum_columns<1>(x + k, y_at, pixels, a.inner, a.inner - k, to + k);
        if (vectors == 2) sum_columns<2>(x + k, y_at, pixels, a.inner, a.inner - k, to + k);
        if (vectors == 3) sum_columns<3>(x + k, y_at, pixels, a.inner, a.inner - k, to + k);
        if (vectors == 4) sum_columns<4>(x + k, y_at, pixels, a.inner, a.inner - k, to + k);
      }
    }
  }
}

template <typename T>
void channel_apply_chunks(const ChannelArgs& a, int64_t begin, int64_t end) {
  for (int64_t task = begin; task < end; ++task) {
    const int64_t outer = task / a.chunks, chunk = task % a.chunks;
    const int64_t first = chunk * a.chunk_pixels, pixels = min_of(a.chunk_pixels, a.pixels - first);
    const int64_t offset = (outer * a.pixels + first) * a.inner;
    const T* x = static_cast<const T*>(a.x);
    const T* addend = static_cast<const T*>(a.addend);
    T* out = static_cast<T*>(a.out);
    const float* scale = a.scale ? a.scale + outer * a.period : nullptr;
    const float* shift = a.shift ? a.shift + outer * a.period : nullptr;
    // A line has the pixels of one channel, or the channels of a few pixels.
    const int64_t floats = pixels * a.inner, line = a.inner == 1 ? floats : a.period;
    for (int64_t start = 0; start < floats; start += line) {
      const int64_t length = min_of(line, floats - start);
      for (int64_t k = 0; k < length; k += N) {
        const int64_t at = offset + start + k, count = length - k;
        Vec v = Vec::set1(0.f);
        if (a.inner == 1) {
          if (x) v = load_part(x + at, count) * Vec::set1(scale[0]);
          if (shift) v = v + Vec::set1(shift[0]);
        } else {
          if (x) v = load_part(x + at, count) * load_part(scale + k, count);
          if (shift) v = v + load_part(shift + k, count);
        }
        if (addend) v = v + load_part(addend + at, count);
        store_part(v, out + at, count);
      }
    }
  }
}

void channel_sum(const ChannelArgs& a, int64_t begin, int64_t end) {
  with_dtype(a.dtype, [&](auto t) { channel_sum_chunks<decltype(t)>(a, begin, end); });
}

void channel_apply(const ChannelArgs& a, int64_t begin, int64_t end) {
  with_dtype(a.dtype, [&](auto t) { channel_apply_chunks<decltype(t)>(a, begin, end); });
}

}  // namespace
}  // namespace lkca::cpu
