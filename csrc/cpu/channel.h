// Sums over pixels and per-channel scaling, for channel_gate and channel_attention.
#pragma once

#include "cpu/kernels_common.h"

namespace lkca::cpu {
namespace {

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
      // Kept in registers: a part of a vector that was stored cannot be forwarded to the next pixel's load.
      for (int64_t k = 0; k < a.inner; k += 4 * N) {
        Vec sum[4];
        for (Vec& s : sum) s = Vec::set1(0.f);
        for (int64_t p = 0; p < pixels; ++p)
          for (int u = 0; u < 4; ++u) {
            const int64_t at = p * a.inner + k + u * N, count = a.inner - k - u * N;
            if (count <= 0) break;
            const Vec v = load_part(x + at, count);
            sum[u] = y ? fma(v, load_part(y + at, count), sum[u]) : sum[u] + v;
          }
        for (int u = 0; u < 4; ++u) {
          const int64_t count = a.inner - k - u * N;
          if (count > 0) store_part(sum[u], to + k + u * N, count);
        }
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
    const float* scale = a.scale ? a.scale + outer * a.inner : nullptr;
    const float* shift = a.shift ? a.shift + outer * a.inner : nullptr;
    // One line has either the pixels of one channel or the channels of one pixel.
    const int64_t lines = a.inner == 1 ? 1 : pixels, length = a.inner == 1 ? pixels : a.inner;
    for (int64_t line = 0; line < lines; ++line)
      for (int64_t k = 0; k < length; k += N) {
        const int64_t at = offset + line * length + k, count = length - k;
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

void channel_sum(const ChannelArgs& a, int64_t begin, int64_t end) {
  with_dtype(a.dtype, [&](auto t) { channel_sum_chunks<decltype(t)>(a, begin, end); });
}

void channel_apply(const ChannelArgs& a, int64_t begin, int64_t end) {
  with_dtype(a.dtype, [&](auto t) { channel_apply_chunks<decltype(t)>(a, begin, end); });
}

}  // namespace
}  // namespace lkca::cpu
