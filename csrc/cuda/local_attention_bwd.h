// The backward kernels of local channel attention. local_attention.cu has the formulas.
#pragma once

#include "local_attention_tile.h"

namespace lkca::cuda {

/// sums(c, k) (of row length `columns`) = or += sum over the tile's pixels of left(c, pixel) * right(k, pixel).
template <class Grid>
LKCA_BODY void add_outer(const Grid& grid, const float* left, const float* right, int rows, int hidden, bool first,
                         float* sums, int64_t columns) {
  constexpr int R = 4, S = kMostHidden / 16;
  const int row = grid.thread() / 16 * R, k = grid.thread() % 16;  // k and k + 16: neighbours in other banks
  if (row >= rows || k >= hidden) return;
  float d[R][S] = {};
  for (int pixel = 0; pixel < kTilePixels; pixel += 4) {
    float a[R][4], b[4];
    LKCA_UNROLL
    for (int i = 0; i < R; ++i) read_floats(left + (row + i) * kPixelRow + pixel, a[i]);
    LKCA_UNROLL
    for (int j = 0; j < S; ++j) {
      if (k + 16 * j >= hidden) continue;
      read_floats(right + (k + 16 * j) * kPixelRow + pixel, b);
      LKCA_UNROLL
      for (int i = 0; i < R; ++i) {
        LKCA_UNROLL
        for (int e = 0; e < 4; ++e) d[i][j] += a[i][e] * b[e];
      }
    }
  }
  LKCA_UNROLL
  for (int i = 0; i < R; ++i) {
    LKCA_UNROLL
    for (int j = 0; j < S; ++j) {
      if (row + i >= rows || k + 16 * j >= hidden) continue;
      float* const sum = sums + (row + i) * columns + k + 16 * j;
      store(sum, first ? d[i][j] : load(sum) + d[i][j]);
    }
  }
}

/// Gradients of P q and P m, and of w2.
template <class T>
struct LocalHiddenGradient {
  static constexpr int threads = kThreads, min_blocks = 2;

  struct Args {
    Local local;
    const T *grad_out, *x, *w2;
    const float* pooled;
    float* grad_pooled;  // like pooled, or null
    float* partial;      // of the gradient of w2: (batch, splits, C, K), or null
    int64_t splits;
    bool vec;
  };

  static int64_t blocks(const Args& args) { return args.local.image.batch * args.splits; }
  static int64_t shared_bytes(const Args& args) {
    const int part = args.local.part;
    return (part * (2 * kPixelRow + kWeightRow) + kTileRows * (kPixelRow + part + 4)) * int64_t{sizeof(float)};
  }

  template <class Grid>
  LKCA_BODY static void run(const Grid& grid, const Args& args, unsigned char* shared) {
    const Local& local = args.local;
    const Shuffle& image = local.image;
    auto* const hidden = reinterpret_cast<float*>(shared);           // (part, pixels)
    float* const grad_hidden = hidden + local.part * kPixelRow;      // the same
    float* const grad_logit = grad_hidden + local.part * kPixelRow;  // (channels, pixels)
    float* const w2 = grad_logit + kTileRows * kPixelRow;            // (part, channels)
    float* const w2_back = w2 + local.part * kWeightRow;             // (channels, part)
    const int back_row = local.part + 4, thread = grid.thread();
    const int parts = static_cast<int>(ceil_div(local.hidden, local.part));

    for (int64_t work = grid.block(); work < image.batch * args.splits; work += grid.blocks()) {
      const int64_t split = work % args.splits, batch = work / args.splits;
      const int64_t begin = image.pixel_tiles * split / args.splits;
      const int64_t end = image.pixel_tiles * (split + 1) / args.splits;
      for (int64_t index = begin; index < end; ++index) {
        const PixelTile tile(image, index);
        float grad_mean = 0.0f;  // of the thread's pixel
        for (int part = 0; part < parts; ++part) {
          const int k0 = part * local.part;
          const int rows = local.hidden_from(k0);
          for (int64_t c_tile = 0; c_tile < image.u_tiles; ++c_tile) {
            const Channels channels(image, tile, batch, c_tile);
            const T* const weights = args.w2 + channels.first * local.hidden;
            TilePatch<T> gate(thread);
            for (int i = 1; i <= parts; ++i) {  // the part itself comes last, and stays for the gradients
              const int j0 = (part + i) % parts * local.part;
              grid.sync();
              if (parts > 1 || c_tile == 0) load_hidden(grid, local, args.pooled, batch, tile, j0, hidden);
              load_weights(grid, w2, kWeightRow, local.part, kTileRows, weights + j0, 1, local.hidden,
                           local.hidden_from(j0), channels.count);
              if (i == parts) {
                load_weights(grid, w2_back, back_row, kTileRows, local.part, weights + j0, local.hidden, 1,
                             channels.count, rows);
              }
              grid.sync();
              gate.add(w2, kWeightRow, hidden, local.hidden_from(j0), channels.count);
            }
            gate.for_each_row(kTileRows, [&](int row, auto& d) {
              constexpr int V = kVec<T>;
              const int64_t at = channels.offset + row * image.pixels + gate.column;
              const int valid = row < channels.count ? tile.count - gate.column : 0;
              float x[V], grad[V];
              load_part(args.x + at, valid, args.vec, x);
              load_part(args.grad_out + at, valid, args.vec, grad);
              LKCA_UNROLL
              for (int e = 0; e < V; ++e) {
                const float factor = twice_sigmoid(d[e]);
                d[e] = factor * (1.0f - 0.5f * factor) * x[e] * grad[e];
              }
              write_floats(grad_logit + row * kPixelRow + gate.column, d);
            });
            grid.sync();
            if (args.partial != nullptr) {
              add_outer(grid, grad_logit, hidden, channels.count, rows, index == begin,
                        args.partial + (work * image.channels + channels.first) * local.hidden + k0, local.hidden);
            }
            if (args.grad_pooled == nullptr) continue;
            Patch<4, 4> grads(thread);
            grads.add(w2_back, back_row, grad_logit, channels.count, rows);
            grads.for_each_row(rows, [&](int row, auto& d) {
              float* const sum = grad_hidden + row * kPixelRow + grads.column;
              float before[4] = {};
              if (c_tile > 0) read_floats(sum, before);
              LKCA_UNROLL
              for (int e = 0; e < 4; ++e) d[e] += before[e];
              write_floats(sum, d);
            });
          }
          if (args.grad_pooled == nullptr) continue;
          grid.sync();
          if (thread >= tile.count) continue;
          const float inverse = inverse_mean(local, args.pooled, batch, tile, thread);
          for (int k = 0; k < rows; ++k) {
            const float value = hidden[k * kPixelRow + thread];  // 0 where r <= 0
            const float grad = value == 0.0f ? 0.0f : grad_hidden[k * kPixelRow + thread] * inverse;
            store(args.grad_pooled + local.field(batch, k0 + k) + tile.first + thread, grad);
            grad_mean -= grad * value;
          }
        }
        if (args.grad_pooled != nullptr && thread < tile.count) {
          store(args.grad_pooled + local.field(batch, local.hidden) + tile.first + thread, grad_mean);
        }
      }
    }
  }
};

/// Gradients of x and w1.
template <class T>
struct LocalInputGradient {
  static constexpr int threads = kThreads, min_blocks = 2;

  struct Args {
    Local local;
    const T *grad_out, *x, *w1, *w2;
    const float *pooled, *grad_mixed;
    T* grad_x;       // or null
    float* partial;  // of the gradient of w1: (batch, splits, C, K), or null
    int64_t splits;
    float share;  // 1 / C
    bool vec;
  };

  static int64_t blocks(const Args& args) { return args.local.image.batch * args.splits * args.local.image.u_tiles; }
  static int64_t shared_bytes(const Args& args) {
    return (args.local.part * (kPixelRow + kWeightRow) + kTileRows * kPixelRow) * int64_t{sizeof(float)};
  }

  template <class Grid>
  LKCA_BODY static void run(const Grid& grid, const Args& args, unsigned char* shared) {
    constexpr int V = kVec<T>;
    const Local& local = args.local;
    const Shuffle& image = local.image;
    auto* const fields = reinterpret_cast<float*>(shared);    // (part, pixels): gradients of q, then relu(r)
    float* const weights = fields + local.part * kPixelRow;   // (part, channels): of w1, then w2
    float* const staged = weights + local.part * kWeightRow;  // (channels, pixels): |x|, then the gradient of |x|
    const int64_t work_count = image.batch * args.splits * image.u_tiles;

    for (int64_t work = grid.block(); work < work_count; work += grid.blocks()) {
      const int64_t batch_split = work / image.u_tiles;
      const int64_t split = batch_split % args.splits, batch = batch_split / args.splits;
      const int64_t begin = image.pixel_tiles * split / args.splits;
      const int64_t end = image.pixel_tiles * (split + 1) / args.splits;
      for (int64_t index = begin; index < end; ++index) {
        const PixelTile tile(image, index);
        const Channels channels(image, tile, batch, work % image.u_tiles);
        TilePatch<T> patch(grid.thread());
        const int valid = tile.count - patch.column;
        grid.sync();
        if (args.partial != nullptr) {
          patch.for_each_row(channels.count, [&](int row, auto&) {
            float x[V];
            load_part(args.x + channels.offset + row * image.pixels + patch.column, valid, args.vec, x);
            LKCA_UNROLL
            for (int e = 0; e < V; ++e) x[e] = magnitude(x[e]);
            write_floats(staged + row * kPixelRow + patch.column, x);
          });
        }
        for (int k0 = 0; k0 < local.hidden; k0 += local.part) {
          if (k0 > 0) grid.sync();
          load_fields(grid, local, args.grad_mixed, batch, tile, k0, fields, [](float value) { return value; });
          load_weights(grid, weights, kWeightRow, local.part, kTileRows,
                       args.w1 + k0 * int64_t{image.channels} + channels.first, image.channels, 1,
                       local.hidden_from(k0), channels.count);
          grid.sync();
          if (args.partial != nullptr) {
            add_outer(grid, staged, fields, channels.count, local.hidden_from(k0), index == begin,
                      args.partial + (batch_split * image.channels + channels.first) * local.hidden + k0, local.hidden);
          }
          patch.add(weights, kWeightRow, fields, local.hidden_from(k0), channels.count);
        }
        if (args.grad_x == nullptr) continue;

        grid.sync();
        patch.for_each_row(channels.count, [&](int row, auto& d) {
          write_floats(staged + row * kPixelRow + patch.column, d);  // read by the same thread
        });
        patch.clear();
        for (int k0 = 0; k0 < local.hidden; k0 += local.part) {
          if (k0 > 0) grid.sync();
          load_hidden(grid, local, args.pooled, batch, tile, k0, fields);
          load_weights(grid, weights, kWeightRow, local.part, kTileRows, args.w2 + channels.first * local.hidden + k0,
                       1, local.hidden, local.hidden_from(k0), channels.count);
          grid.sync();
          patch.add(weights, kWeightRow, fields, local.hidden_from(k0), channels.count);
        }
        float mean[V];
        LKCA_UNROLL
        for (int e = 0; e < V; ++e) {
          const float* const at = args.grad_mixed + local.field(batch, local.hidden) + tile.first + patch.column + e;
          mean[e] = e < valid ? args.share * load(at) : 0.0f;
        }
        patch.for_each_row(channels.count, [&](int row, auto& d) {
          const int64_t at = channels.offset + row * image.pixels + patch.column;
          float x[V], grad[V], slope[V];
          load_part(args.x + at, valid, args.vec, x);
          load_part(args.grad_out + at, valid, args.vec, grad);
          read_floats(staged + row * kPixelRow + patch.column, slope);
          LKCA_UNROLL
          for (int e = 0; e < V; ++e) {
            const float away = slope[e] + mean[e];
            grad[e] = grad[e] * twice_sigmoid(d[e]) + (x[e] > 0.0f ? away : x[e] < 0.0f ? -away : 0.0f);
          }
          store_part(args.grad_x + at, valid, args.vec, grad);
        });
      }
    }
  }
};

/// Sum of the partial sums (parts, C, K), a warp to each element; out is (C, K), or (K, C).
template <class T>
struct LocalFinish {
  static constexpr int threads = kThreads, min_blocks = 2;

  struct Args {
    const float* partial;
    T* out;
    int64_t parts, channels, hidden;
    bool transposed;
  };

  static int64_t blocks(const Args& args) { return ceil_div(args.channels * args.hidden, kWarps); }
  static int64_t shared_bytes(const Args&) { return 0; }

  template <class Grid>
  LKCA_BODY static void run(const Grid& grid, const Args& args, unsigned char*) {
    const int warp = grid.thread() / 32, lane = grid.thread() % 32;
    const int64_t count = args.channels * args.hidden;
    for (int64_t index = grid.block() * kWarps + warp; index < count; index += grid.blocks() * kWarps) {
      float sum = 0.0f;
      for (int64_t part = lane; part < args.parts; part += 32) sum += load(args.partial + part * count + index);
      sum = grid.warp_sum(sum);
      const int64_t c = index / args.hidden, k = index - c * args.hidden;
      if (lane == 0) store(args.out + (args.transposed ? k * args.channels + c : index), from_float<T>(sum));
    }
  }
};

}  // namespace lkca::cuda
