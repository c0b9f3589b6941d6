// What the kernels of local_attention.cu share: the image and its fields, and what a block does with a tile of 64
// channels by 128 pixels in shared memory.
#pragma once

#include <cmath>

#include "tile.h"

namespace lkca::cuda {

constexpr float kEps = 1.0842021724855044e-19f;  // 2^-63, the square root of the least normal float
constexpr int kPixelRow = kTilePixels + 4;       // floats from one row of pixels to the next in shared memory
constexpr int kWeightRow = kTileRows + 4;        // from one row of channels to the next
constexpr int kMostHidden = 32;                  // hidden channels that are in shared memory at a time

/// The image as a shuffle with scale 1, so that a u row is a channel, and its fields.
struct Local {
  Shuffle image;
  int hidden = 0;
  int part = 0;  // hidden channels that are in shared memory at a time: 16 or 32

  Local() = default;
  explicit Local(const LocalAttentionProblem& shape)
      : image(shape.batch, shape.channels, shape.height, shape.width, 1),
        hidden(static_cast<int>(shape.hidden)),
        part(shape.hidden <= 16 ? 16 : kMostHidden) {}

  LKCA_HD int64_t planes() const { return image.batch * (hidden + 1); }
  LKCA_HD int64_t field(int64_t batch, int k) const { return (batch * (hidden + 1) + k) * image.pixels; }
  LKCA_HD int hidden_from(int k0) const { return smaller(part, hidden - k0); }
};

/// Up to 64 channels of a pixel tile.
struct Channels {
  int64_t first, offset;  // the first channel; where the tile begins in x
  int count;

  LKCA_BODY Channels(const Shuffle& image, const PixelTile& tile, int64_t batch, int64_t channel_tile)
      : first(channel_tile * kTileRows),
        offset((batch * image.channels + first) * image.pixels + tile.first),
        count(static_cast<int>(smaller<int64_t>(kTileRows, image.channels - first))) {}
};

/// D (rows x 128 pixels) += A (rows x count) B (count x 128) in float: a thread holds R rows of V neighbouring pixels.
/// Both operands lie in shared memory, k after k: a row of A's rows, a row of pixels.
template <int R, int V>
struct Patch {
  static constexpr int kLanes = kTilePixels / V;
  int row, column;
  float d[R][V];

  LKCA_BODY explicit Patch(int thread) : row(thread / kLanes * R), column(thread % kLanes * V) { clear(); }

  LKCA_BODY void clear() {
    LKCA_UNROLL
    for (int i = 0; i < R; ++i) {
      LKCA_UNROLL
      for (int e = 0; e < V; ++e) d[i][e] = 0.0f;
    }
  }

  /// f(row, its V values) for the thread's rows below `rows`.
  template <class F>
  LKCA_BODY void for_each_row(int rows, F f) {
    LKCA_UNROLL
    for (int i = 0; i < R; ++i) {
      if (row + i < rows) f(row + i, d[i]);
    }
  }

  LKCA_BODY void add(const float* a, int stride, const float* b, int count, int rows) {
    if (row >= rows) return;
    LKCA_UNROLL4
    for (int k = 0; k < count; ++k) {
      float left[R], right[V];
      read_floats(a + k * stride + row, left);
      read_floats(b + k * kPixelRow + column, right);
      LKCA_UNROLL
      for (int i = 0; i < R; ++i) {
        LKCA_UNROLL
        for (int e = 0; e < V; ++e) d[i][e] += left[i] * right[e];
      }
    }
  }
};

/// 64 channels by 128 pixels, V of which are a 16-byte vector of T.
template <class T>
using TilePatch = Patch<32 / kVec<T>, kVec<T>>;

/// V neighbours, of which the first `valid` exist (the others: 0). `vec`: see vectors(); valid is then V or not
/// positive.
template <class T, int V>
LKCA_BODY void load_part(const T* p, int valid, bool vec, float (&value)[V]) {
  if (vec && valid > 0) return load_elements(p, value);
  LKCA_UNROLL
  for (int e = 0; e < V; ++e) value[e] = e < valid ? to_float(load(p + e)) : 0.0f;
}
template <class T, int V>
LKCA_BODY void store_part(T* p, int valid, bool vec, const float (&value)[V]) {
  if (vec && valid > 0) return store_elements(p, value);
  LKCA_UNROLL
  for (int e = 0; e < V; ++e) {
    if (e < valid) store(p + e, from_float<T>(value[e]));
  }
}

LKCA_BODY float twice_sigmoid(float value) { return 2.0f / (1.0f + expf(-value)); }

/// 1 / (P m + eps) at pixel i of a tile.
LKCA_BODY float inverse_mean(const Local& local, const float* pooled, int64_t batch, const PixelTile& tile, int i) {
  return 1.0f / (load(pooled + local.field(batch, local.hidden) + tile.first + i) + kEps);
}

/// room(k, pixel) = f(field k0 + k), zero outside; f(value) is of the thread's one pixel.
template <class Grid, class F>
LKCA_BODY void load_fields(const Grid& grid, const Local& local, const float* fields, int64_t batch,
                           const PixelTile& tile, int k0, float* room, F f) {
  const int pixel = grid.thread() % kTilePixels;
  for (int k = grid.thread() / kTilePixels; k < local.part; k += kThreads / kTilePixels) {
    const bool inside = pixel < tile.count && k0 + k < local.hidden;
    room[k * kPixelRow + pixel] = inside ? f(load(fields + local.field(batch, k0 + k) + tile.first + pixel)) : 0.0f;
  }
}

/// relu(r) of the hidden channels from k0 on.
template <class Grid>
LKCA_BODY void load_hidden(const Grid& grid, const Local& local, const float* pooled, int64_t batch,
                           const PixelTile& tile, int k0, float* room) {
  const int pixel = grid.thread() % kTilePixels;
  const float inverse = pixel < tile.count ? inverse_mean(local, pooled, batch, tile, pixel) : 0.0f;
  load_fields(grid, local, pooled, batch, tile, k0, room, [&](float value) {
    value *= inverse;
    return value <= 0.0f ? 0.0f : value;  // NaN passes, as in torch
  });
}

/// room(i, j) = w[i * step_i + j * step_j], zero outside valid_i x valid_j.
template <class T, class Grid>
LKCA_BODY void load_weights(const Grid& grid, float* room, int stride, int rows, int columns, const T* w,
                            int64_t step_i, int64_t step_j, int valid_i, int valid_j) {
  for (int index = grid.thread(); index < rows * columns; index += kThreads) {
    const int i = index / columns, j = index - i * columns;
    room[i * stride + j] = i < valid_i && j < valid_j ? to_float(load(w + i * step_i + j * step_j)) : 0.0f;
  }
}

}  // namespace lkca::cuda
