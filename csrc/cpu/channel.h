// Sums over pixels and per-channel scaling, for channel_gate and channel_attention.
#pragma once

#include "cpu/kernels_common.h"

namespace lkca::cpu {
namespace {

// The sums over pixels of U vectors' channels, of which `width` are there, `inner` floats from one pixel to the next.
// They stay in registers: what was stored as a part of a vector cannot be forwarded to the next pixel's load.
template <int U, typename T>
LKCA_NO_INLINE void sum_columns(const T* x, const T* y, int64_t pixels, int64_t inner, int64_t width, float* to) {
  Vec sum[U];
  LKCA_UNROLL
  for (int u = 0; u < U; ++u) sum[u] = Vec::set1(0.f);
  const auto add = [&](int64_t p, const auto& load) {
    LKCA_UNROLL
    for (int u = 0; u < U; ++u) {
      const int64_t at = p * inner + u * N, count = width - u * N;
      const Vec v = load(x + at, count);
      sum[u] = y ? fma(v, load(y + at, count), sum[u]) : sum[u] + v;
    }
  };
  // The last vector may reach into the next pixel, whose samples are not stored, but not beyond the last one.
  const int64_t beyond = U * N > width ? ceil_div(U * N - width, inner) : 0;
  int64_t p = 0;
  for (; p + beyond < pixels; ++p) add(p, [](const T* from, int64_t) { return Vec::load(from); });
  for (; p < pixels; ++p) add(p, [](const T* from, int64_t count) { return load_part(from, count); });
  for (int u = 0; u < U; ++u) store_part(sum[u], to + u * N, width - u * N);
}

// The sum over consecutive samples of one channel.
template <typename T>
inline float sum_run(const T* x, const T* y, int64_t samples) {
  Vec sum[4];
  for (Vec& s : sum) s = Vec::set1(0.f);
  for (int64_t k = 0; k < samples; k += 4 * N)
    for (int u = 0; u < 4; ++u) {
      const int64_t at = k + u * N, count = samples - at;
      if (count <= 0) break;
      const Vec v = load_part(x + at, count);
      sum[u] = y ? fma(v, load_part(y + at, count), sum[u]) : sum[u] + v;
    }
  return ((sum[0] + sum[1]) + (sum[2] + sum[3])).sum();
}

// The pixels of one task, the first of them `offset` samples into the tensor.
struct Chunk {
  int64_t outer, pixels, offset;
  Chunk(const ChannelArgs& a, int64_t task) : outer(task / a.chunks) {
    const int64_t first = task % a.chunks * a.chunk_pixels;
    pixels = min_of(a.chunk_pixels, a.pixels - first);
    offset = (outer * a.pixels + first) * a.inner;
  }
};

template <typename T>
void channel_sum_chunks(const ChannelArgs& a, int64_t begin, int64_t end) {
  for (int64_t task = begin; task < end; ++task) {
    const Chunk chunk(a, task);
    const T* x = static_cast<const T*>(a.x) + chunk.offset;
    const T* y = a.y ? static_cast<const T*>(a.y) + chunk.offset : nullptr;
    float* to = a.partial + task * a.inner;
    if (a.inner == 1) {
      to[0] = sum_run(x, y, chunk.pixels);
      continue;
    }
    for (int64_t k = 0; k < a.inner; k += 4 * N) {
      const int64_t width = a.inner - k;
      with_constant<1, 2, 3, 4>(ceil_div(width, N), [&](auto vectors) {
        sum_columns<decltype(vectors)::value>(x + k, y ? y + k : nullptr, chunk.pixels, a.inner, width, to + k);
      });
    }
  }
}

template <typename T>
void channel_apply_chunks(const ChannelArgs& a, int64_t begin, int64_t end) {
  for (int64_t task = begin; task < end; ++task) {
    const Chunk chunk(a, task);
    const T* x = static_cast<const T*>(a.x);
    const T* addend = static_cast<const T*>(a.addend);
    T* out = static_cast<T*>(a.out);
    const float* scale = a.scale ? a.scale + chunk.outer * a.period : nullptr;
    const float* shift = a.shift ? a.shift + chunk.outer * a.period : nullptr;
    // A line has the pixels of one channel, or the channels of a few pixels.
    const int64_t floats = chunk.pixels * a.inner, line = a.inner == 1 ? floats : a.period;
    for (int64_t start = 0; start < floats; start += line) {
      const int64_t length = min_of(line, floats - start);
      for (int64_t k = 0; k < length; k += N) {
        const int64_t at = chunk.offset + start + k, count = length - k;
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
