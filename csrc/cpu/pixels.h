// Rows of pixels as fp32 vectors over the channels: how they are loaded, kept, multiplied by a small matrix and stored.
#pragma once

#include "cpu/kernels_common.h"

namespace lkca::cpu {
namespace {

constexpr int64_t kTile = 8;  // pixels of one product; rows of pixels have room for one tile more

// The last few rows of an image, by row number.
struct Ring {
  float* rows;
  int64_t slots, floats;
  float* row(int64_t y) const { return rows + y % slots * floats; }
};

inline int64_t max_of(int64_t a, int64_t b) { return a > b ? a : b; }

// Rows y0..y1 of the columns from..to of image b.
struct Piece {
  int64_t b, from, to, y0, y1;
};

// Rows from y0 on of a strip, b * strips + strip.
inline Piece piece_of(const Strips& a, int64_t strip, int64_t y0, int64_t rows) {
  const int64_t strips = ceil_div(a.width, a.strip), from = strip % strips * a.strip;
  return {strip / strips, from, min_of(a.width, from + a.strip), y0, min_of(a.height, y0 + rows)};
}

// What lies in one strip of the rows [begin, end) of all strips, (b * strips + strip) * height + y.
inline Piece rows_of_strip(const Strips& a, int64_t begin, int64_t end) {
  return piece_of(a, begin / a.height, begin % a.height, end - begin);
}

// A slice, (b * strips + strip) * slices of a strip + slice.
inline Piece slice_of(const Strips& a, int64_t slice) {
  const int64_t slices = ceil_div(a.height, a.slice_rows);
  return piece_of(a, slice / slices, slice % slices * a.slice_rows, a.slice_rows);
}

// Channel 0 of a pixel.
template <typename T>
inline const T* pixel_of(const void* base, const int64_t (&stride)[4], int64_t b, int64_t y, int64_t x) {
  return static_cast<const T*>(base) + b * stride[0] + y * stride[2] + x * stride[3];
}
template <typename T>
inline T* pixel_of(void* base, const int64_t (&stride)[4], int64_t b, int64_t y, int64_t x) {
  return static_cast<T*>(base) + b * stride[0] + y * stride[2] + x * stride[3];
}

inline void clear(float* from, float* to) {
  for (; from < to; ++from) *from = 0.f;
}

// Whether pixels lie in memory as here: one after another, without padding.
inline bool dense(int64_t pixel_stride, int64_t channel_stride, int64_t channels, int64_t lanes) {
  return channel_stride == 1 && pixel_stride == lanes && channels == lanes;
}

// Eight rows of N floats, turned: lane l of all rows at to + l * stride.
inline void put_turned(Vec (&rows)[8], float* to, int64_t stride) {
  LKCA_UNROLL
  for (int r = 0; r < 8; ++r) rows[r] = to_lane_order<8>(rows[r]);
  interleave<8>(rows);
  alignas(64) float turned[8 * N];
  LKCA_UNROLL
  for (int r = 0; r < 8; ++r) rows[r].store(turned + r * N);
  for (int l = 0; l < N; ++l)
    for (int r = 0; r < 8; ++r) to[l * stride + r] = turned[l * 8 + r];
}

// Pixels of one row as fp32 [pixel][lanes]; zero up to whole vectors and whole tiles.
template <typename T>
inline void load_pixels(const T* from, int64_t pixel_stride, int64_t channel_stride, int64_t pixels, int64_t channels,
                        int64_t lanes, float* to) {
  if (dense(pixel_stride, channel_stride, channels, lanes)) {
    for (int64_t i = 0; i < pixels * lanes; i += N) Vec::load(from + i).store(to + i);
  } else if (channel_stride == 1) {
    for (int64_t p = 0; p < pixels; ++p)
      for (int64_t c = 0; c < channels; c += N)
        load_part(from + p * pixel_stride + c, channels - c).store(to + p * lanes + c);
  } else {
    const int64_t eights = pixel_stride == 1 ? channels / 8 * 8 : 0, vectors = pixels / N * N;
    for (int64_t c = 0; c < eights; c += 8)
      for (int64_t p = 0; p < vectors; p += N) {
        Vec rows[8];
        LKCA_UNROLL
        for (int r = 0; r < 8; ++r) rows[r] = Vec::load(from + (c + r) * channel_stride + p);
        put_turned(rows, to + p * lanes + c, lanes);
      }
    for (int64_t c = 0; c < channels; ++c)
      for (int64_t p = c < eights ? vectors : 0; p < pixels; ++p)
        to[p * lanes + c] = to_float(from[c * channel_stride + p * pixel_stride]);
    for (int64_t p = 0; p < pixels; ++p) clear(to + p * lanes + channels, to + (p + 1) * lanes);
  }
  clear(to + pixels * lanes, to + ceil_div(pixels, kTile) * kTile * lanes);
}

template <typename T>
inline void store_pixels(const float* from, int64_t pixels, int64_t channels, int64_t lanes, T* to,
                         int64_t pixel_stride, int64_t channel_stride) {
  if (dense(pixel_stride, channel_stride, channels, lanes)) {
    for (int64_t i = 0; i < pixels * lanes; i += N) Vec::load(from + i).store(to + i);
  } else if (channel_stride == 1) {
    for (int64_t p = 0; p < pixels; ++p)
      for (int64_t c = 0; c < channels; c += N)
        store_part(Vec::load(from + p * lanes + c), to + p * pixel_stride + c, channels - c);
  } else {
    int64_t eights = 0, vectors = 0;
    if constexpr (sizeof(T) == sizeof(float)) {
      eights = pixel_stride == 1 ? pixels / 8 * 8 : 0, vectors = channels / N * N;
      for (int64_t p = 0; p < eights; p += 8)
        for (int64_t c = 0; c < vectors; c += N) {
          Vec rows[8];
          LKCA_UNROLL
          for (int r = 0; r < 8; ++r) rows[r] = Vec::load(from + (p + r) * lanes + c);
          put_turned(rows, to + c * channel_stride + p, channel_stride);
        }
    }
    for (int64_t c = 0; c < channels; ++c)
      for (int64_t p = c < vectors ? eights : 0; p < pixels; ++p)
        to[c * channel_stride + p * pixel_stride] = from_float<T>(from[p * lanes + c]);
  }
}

// Rows 2 r and 2 r + 1 of a matrix of bf16 values, held in fp32, as one row of pairs; a last odd row beside zeros.
// Without memory to put them it does nothing.
inline const float* pair_rows(const float* matrix, int64_t rows, int64_t columns, float* to) {
  if (!to) return to;
  for (int64_t r = 0; r < rows; r += 2)
    for (int64_t q = 0; q < columns; q += N) {
      const Vec high = r + 1 < rows ? Vec::load(matrix + (r + 1) * columns + q) : Vec::set1(0.f);
      pair_bf16(Vec::load(matrix + r * columns + q), high).store(to + r / 2 * columns + q);
    }
  return to;
}

// V vectors of a tile of pixels: sum over r of in[t][r] * weight[r][q]; finish(t, v, sum) takes it. I: float, or BF16,
// whose weights are rows of pairs and whose pixels have a zero beside a last odd value.
template <int V, typename I, typename F>
inline void product_tile(const I* in, int64_t in_stride, const float* weight, int64_t rows, int64_t columns,
                         const F& finish) {
  constexpr int64_t kStep = sizeof(float) / sizeof(I);  // values that are multiplied at once
  Vec sum[kTile][V];
  LKCA_UNROLL
  for (int t = 0; t < kTile; ++t) {
    LKCA_UNROLL
    for (int v = 0; v < V; ++v) sum[t][v] = Vec::set1(0.f);
  }
  for (int64_t r = 0; r < rows; r += kStep, weight += columns) {
    Vec w[V];
    LKCA_UNROLL
    for (int v = 0; v < V; ++v) w[v] = Vec::load(weight + v * N);
    LKCA_UNROLL
    for (int t = 0; t < kTile; ++t) {
      const float* value = reinterpret_cast<const float*>(in + t * in_stride + r);
      LKCA_UNROLL
      for (int v = 0; v < V; ++v) sum[t][v] = multiply_add<kStep == 2>(value, w[v], sum[t][v]);
    }
  }
  LKCA_UNROLL
  for (int t = 0; t < kTile; ++t) {
    LKCA_UNROLL
    for (int v = 0; v < V; ++v) finish(t, v, sum[t][v]);
  }
}

// out[p][q] = finish(sum over r of in[p][r] * weight[r][q]), for whole tiles of pixels.
template <typename I, typename O, typename F>
inline void product(const I* in, int64_t in_stride, int64_t pixels, const float* weight, int64_t rows, int64_t columns,
                    O* out, const F& finish) {
  constexpr int V = kAccumulators / kTile;
  for (int64_t p = 0; p < pixels; p += kTile) {
    const I* from = in + p * in_stride;
    int64_t q = 0;
    const auto put = [&](int t, int v, Vec sum) { finish(sum).store(out + (p + t) * columns + q + v * N); };
    for (; q + V * N <= columns; q += V * N) product_tile<V>(from, in_stride, weight + q, rows, columns, put);
    for (; q < columns; q += N) product_tile<1>(from, in_stride, weight + q, rows, columns, put);
  }
}

template <typename I>
inline void product(const I* in, int64_t in_stride, int64_t pixels, const float* weight, int64_t rows, int64_t columns,
                    float* out) {
  product(in, in_stride, pixels, weight, rows, columns, out, [](Vec sum) { return sum; });
}

// sums[r][q] += sum over p of a[p][r] * b[p][q]; rows are taken by the tile, and `a` has as many floats to a pixel.
inline void add_outer(const float* a, int64_t a_stride, const float* b, int64_t columns, int64_t pixels, int64_t rows,
                      float* sums) {
  for (int64_t r = 0; r < rows; r += kTile)
    for (int64_t q = 0; q < columns; q += N) {
      Vec sum[kTile];
      LKCA_UNROLL
      for (int t = 0; t < kTile; ++t) sum[t] = Vec::set1(0.f);
      for (int64_t p = 0; p < pixels; ++p) {
        const Vec value = Vec::load(b + p * columns + q);
        LKCA_UNROLL
        for (int t = 0; t < kTile; ++t) sum[t] = fma(Vec::set1(a[p * a_stride + r + t]), value, sum[t]);
      }
      for (int t = 0; t < kTile; ++t) {
        float* to = sums + (r + t) * columns + q;
        (Vec::load(to) + sum[t]).store(to);
      }
    }
}

}  // namespace
}  // namespace lkca::cpu
