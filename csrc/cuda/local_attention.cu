// Local channel attention: gates from the mean magnitudes in a window around each pixel. With u = |x|, P the mean over
// the window's pixels inside the image, and per pixel
//   q = w1 u, m = mean_C(u), r = P q / (P m + eps), gate = 2 sigmoid(w2 relu(r)), out = x * gate (+ residual)
// the K + 1 rows of q and m, the fields of a pixel, are made first (w1 and P commute) and pooled: (B, K + 1, H, W) in
// float, which stays in L2 for usual sizes. Backward, from d_logit = grad * x * gate * (1 - gate / 2):
//   d_r = w2^T d_logit where r > 0, d_q = P^T (d_r / (P m + eps)), d_m = P^T (-sum_K(d_r r) / (P m + eps)),
//   dx = grad * gate + sign(x) (w1^T d_q + d_m / C), dw1 = sum d_q u^T, dw2 = sum d_logit relu(r)^T.
//
// q is a product of x and w1 as they are stored (16-bit types: tensor cores); whatever follows is float.
#include <cmath>

#include "api.h"
#include "dispatch.h"
#include "tile.h"

namespace lkca::cuda {
namespace {

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

// ---- q and m ----------------------------------------------------------------------------------------------------
template <class T>
struct LocalMix {
  static constexpr int threads = kThreads, min_blocks = 2;

  struct Args {
    Local local;
    const T *x, *w1;
    float* mixed;
    int64_t row_tiles;
    float share;  // 1 / C
    int kc;
    bool vec_x, vec_w1;
  };

  static int64_t blocks(const Args& args) {
    return args.local.image.batch * args.local.image.pixel_tiles * args.row_tiles;
  }
  static int64_t shared_bytes(const Args& args) {
    return operand_bytes<T>(kTileRows, args.kc) + operand_bytes<T>(kTilePixels, args.kc);
  }

  template <class Grid>
  LKCA_BODY static void run(const Grid& grid, const Args& args, unsigned char* shared) {
    const Local& local = args.local;
    const Shuffle& image = local.image;
    T* const a = reinterpret_cast<T*>(shared);
    T* const b = a + Operand<T>::size(kTileRows, args.kc);
    const int stride = Operand<T>::stride(kTileRows, args.kc);
    const int64_t work_count = image.batch * image.pixel_tiles * args.row_tiles;
    for (int64_t work = grid.block(); work < work_count; work += grid.blocks()) {
      const int row0 = static_cast<int>(work % args.row_tiles) * kTileRows;
      const int64_t batch_tile = work / args.row_tiles;
      const int64_t batch = batch_tile / image.pixel_tiles;
      const PixelTile tile(image, batch_tile % image.pixel_tiles);
      const int rows = smaller(kTileRows, local.hidden + 1 - row0);
      TileProduct<T, kTileRows, kTilePixels> product;
      product.for_each(grid.thread(), [](int, int, float& d) { d = 0.0f; });
      for (int64_t c0 = 0; c0 < image.channels; c0 += args.kc) {
        grid.sync();
        load_columns<kTilePixels, true>(grid, b, args.kc,
                                        args.x + (batch * image.channels + c0) * image.pixels + tile.first,
                                        image.pixels, tile.count, image.channels - c0, args.vec_x);
        load_rows(grid, a, kTileRows, args.kc, args.w1 + int64_t{row0} * image.channels + c0, image.channels,
                  local.hidden - row0, image.channels - c0, args.vec_w1);
        if (row0 + rows == local.hidden + 1) {  // the last row: ones, for the mean
          grid.sync();                          // after load_rows has put zeros there
          for (int k = grid.thread(); k < args.kc; k += kThreads) {
            a[Operand<T>::at(rows - 1, k, stride)] = from_float<T>(1.0f);
          }
        }
        grid.sync();
        product.add(grid, a, b, args.kc, rows);
      }
      float* const out = args.mixed + local.field(batch, row0) + tile.first;
      product.for_each(grid.thread(), [&](int row, int pixel, float& d) {
        if (row >= rows || pixel >= tile.count) return;
        store(out + row * image.pixels + pixel, row0 + row == local.hidden ? d * args.share : d);
      });
    }
  }
};

// ---- mean over the window along one direction, or its adjoint -------------------------------------------------------
template <bool kAdjoint>
struct LocalBox {
  static constexpr int threads = kThreads, min_blocks = 4;
  static constexpr int kPlanes = 4, kStep = kThreads / kTilePixels;  // planes of a thread, and from one to its next

  struct Args {
    Shuffle image;
    int64_t planes, plane_groups;
    const float* in;
    float* out;
    int reach;  // below the image's size
    bool along_x;
  };

  static int64_t blocks(const Args& args) { return args.plane_groups * args.image.pixel_tiles; }
  static int64_t shared_bytes(const Args&) { return 0; }

  template <class Grid>
  LKCA_BODY static void run(const Grid& grid, const Args& args, unsigned char*) {
    const Shuffle& image = args.image;
    const int pixel = grid.thread() % kTilePixels;
    const int size = static_cast<int>(args.along_x ? image.width : image.height);
    const auto count = [&](int i) {
      return static_cast<float>(smaller(i + args.reach, size - 1) - larger(i - args.reach, 0) + 1);
    };
    for (int64_t work = grid.block(); work < args.plane_groups * image.pixel_tiles; work += grid.blocks()) {
      const PixelTile tile(image, work % image.pixel_tiles);
      if (pixel >= tile.count) continue;
      const int64_t plane = work / image.pixel_tiles * kPlanes * kStep + grid.thread() / kTilePixels;
      const int64_t at = plane * image.pixels + tile.first + pixel;
      const int along = tile.x + pixel, down = image.by_width.div(along);
      const int i = args.along_x ? along - down * static_cast<int>(image.width) : static_cast<int>(tile.row) + down;
      const int64_t step = args.along_x ? 1 : image.width;
      float total[kPlanes] = {};
      for (int source = larger(i - args.reach, 0); source <= smaller(i + args.reach, size - 1); ++source) {
        const float* const from = args.in + at + (source - i) * step;
        const float share = kAdjoint ? 1.0f / count(source) : 1.0f;
        LKCA_UNROLL
        for (int p = 0; p < kPlanes; ++p) {
          if (plane + p * kStep < args.planes) total[p] += share * load(from + p * kStep * image.pixels);
        }
      }
      LKCA_UNROLL
      for (int p = 0; p < kPlanes; ++p) {
        if (plane + p * kStep >= args.planes) continue;
        store(args.out + at + p * kStep * image.pixels, kAdjoint ? total[p] : total[p] / count(i));
      }
    }
  }
};

// ---- forward ------------------------------------------------------------------------------------------------------
template <class T>
struct LocalApply {
  static constexpr int threads = kThreads, min_blocks = 2;

  struct Args {
    Local local;
    const T *x, *w2, *residual;
    const float* pooled;
    T* out;
    bool vec;
  };

  static int64_t blocks(const Args& args) {
    return args.local.image.batch * args.local.image.pixel_tiles * args.local.image.u_tiles;
  }
  static int64_t shared_bytes(const Args& args) {
    return args.local.part * (kPixelRow + kWeightRow) * int64_t{sizeof(float)};
  }

  template <class Grid>
  LKCA_BODY static void run(const Grid& grid, const Args& args, unsigned char* shared) {
    const Local& local = args.local;
    const Shuffle& image = local.image;
    auto* const hidden = reinterpret_cast<float*>(shared);
    float* const w2 = hidden + local.part * kPixelRow;
    const int64_t work_count = image.batch * image.pixel_tiles * image.u_tiles;
    for (int64_t work = grid.block(); work < work_count; work += grid.blocks()) {
      const int64_t batch_tile = work / image.u_tiles, batch = batch_tile / image.pixel_tiles;
      const PixelTile tile(image, batch_tile % image.pixel_tiles);
      const Channels channels(image, tile, batch, work % image.u_tiles);
      TilePatch<T> gate(grid.thread());
      for (int k0 = 0; k0 < local.hidden; k0 += local.part) {
        grid.sync();
        load_hidden(grid, local, args.pooled, batch, tile, k0, hidden);
        load_weights(grid, w2, kWeightRow, local.part, kTileRows, args.w2 + channels.first * local.hidden + k0, 1,
                     local.hidden, local.hidden_from(k0), channels.count);
        grid.sync();
        gate.add(w2, kWeightRow, hidden, local.hidden_from(k0), channels.count);
      }
      gate.for_each_row(channels.count, [&](int row, auto& d) {
        constexpr int V = kVec<T>;
        const int64_t at = channels.offset + row * image.pixels + gate.column;
        const int valid = tile.count - gate.column;
        float x[V], added[V];
        load_part(args.x + at, valid, args.vec, x);
        if (args.residual != nullptr) load_part(args.residual + at, valid, args.vec, added);
        LKCA_UNROLL
        for (int e = 0; e < V; ++e) x[e] = x[e] * twice_sigmoid(d[e]) + (args.residual != nullptr ? added[e] : 0.0f);
        store_part(args.out + at, valid, args.vec, x);
      });
    }
  }
};

// ---- backward: gradients of P q and P m, and of w2 -----------------------------------------------------------------
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

// ---- backward: gradients of x and w1 --------------------------------------------------------------------------------
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

// ---- launches -----------------------------------------------------------------------------------------------------
const char* refusal(const LocalAttentionProblem& shape) {
  constexpr int64_t kLimit = int64_t{1} << 30;  // leaves room for a tile beyond
  if (shape.channels > kLimit || shape.hidden > kLimit) return "channels and hidden channels must stay below 2^30";
  if (shape.height > kLimit || shape.width > kLimit) return "height and width must stay below 2^30";
  return nullptr;
}

int64_t hidden_splits(const Local& local) { return partial_splits(local.image, local.image.batch); }
int64_t input_splits(const Local& local) {
  return partial_splits(local.image, local.image.batch * local.image.u_tiles);
}

/// The window's mean over every plane of `fields`, or its adjoint. What is in `fields` is lost; `result` is the one of
/// the two rooms that has the outcome.
template <bool kAdjoint>
const char* box(const Local& local, int64_t window, float* fields, float* room, float*& result, Stream stream) {
  using Kernel = LocalBox<kAdjoint>;
  result = fields;
  for (const bool along_x : {true, false}) {
    const int64_t size = along_x ? local.image.width : local.image.height;
    const int64_t reach = larger<int64_t>(0, smaller(window / 2, size - 1));  // a wider window reaches all of the image
    if (reach == 0) continue;
    float* const out = result == fields ? room : fields;
    const typename Kernel::Args args{local.image,
                                     local.planes(),
                                     ceil_div(local.planes(), Kernel::kPlanes * Kernel::kStep),
                                     result,
                                     out,
                                     static_cast<int>(reach),
                                     along_x};
    if (const char* error = launch<Kernel>(args, stream)) return error;
    result = out;
  }
  return nullptr;
}

/// P q and P m in one of the two rooms, which `pooled` then is.
template <class T>
const char* pool(const Local& local, int64_t window, const LocalAttentionInputs& in, float* mixed, float* room,
                 float*& pooled, Stream stream) {
  const Shuffle& image = local.image;
  const typename LocalMix<T>::Args args{local,
                                        static_cast<const T*>(in.x),
                                        static_cast<const T*>(in.w1),
                                        mixed,
                                        ceil_div(local.hidden + 1, kTileRows),
                                        1.0f / static_cast<float>(image.channels),
                                        k_step<T>(image.channels),
                                        vectors<T>(in.x, image.pixels),
                                        vectors<T>(in.w1, image.channels)};
  if (const char* error = launch<LocalMix<T>>(args, stream)) return error;
  return box<false>(local, window, mixed, room, pooled, stream);
}

template <class T>
const char* finish(const Local& local, const float* partial, int64_t splits, bool transposed, void* out,
                   Stream stream) {
  const int64_t parts = local.image.pixels == 0 ? 0 : local.image.batch * splits;
  const typename LocalFinish<T>::Args args{partial,   static_cast<T*>(out), parts, local.image.channels, local.hidden,
                                           transposed};
  return launch<LocalFinish<T>>(args, stream);
}

template <class T>
const char* forward(const LocalAttentionProblem& shape, const LocalAttentionInputs& in, const void* residual, void* out,
                    float* workspace, Stream stream) {
  const Local local(shape);
  const int64_t pixels = local.image.pixels;
  float* pooled = nullptr;
  const char* error = pool<T>(local, shape.window, in, workspace, workspace + local.planes() * pixels, pooled, stream);
  if (error != nullptr) return error;
  const typename LocalApply<T>::Args args{
      local,
      static_cast<const T*>(in.x),
      static_cast<const T*>(in.w2),
      static_cast<const T*>(residual),
      pooled,
      static_cast<T*>(out),
      vectors<T>(in.x, pixels) && vectors<T>(residual, pixels) && vectors<T>(out, pixels)};
  return launch<LocalApply<T>>(args, stream);
}

template <class T>
const char* backward(const LocalAttentionProblem& shape, const LocalAttentionInputs& in, const void* grad_out,
                     const LocalAttentionGradients& grad, float* workspace, Stream stream) {
  const Local local(shape);
  const int64_t pixels = local.image.pixels, floats = local.planes() * pixels;
  float *const first = workspace, *const second = first + floats, *const third = second + floats;
  float *const partial = third + floats, *pooled = nullptr, *grad_mixed = nullptr;
  const auto* g = static_cast<const T*>(grad_out);
  const auto *x = static_cast<const T*>(in.x), *w1 = static_cast<const T*>(in.w1), *w2 = static_cast<const T*>(in.w2);
  const bool vec = vectors<T>(x, pixels) && vectors<T>(g, pixels);
  const char* error = pool<T>(local, shape.window, in, first, second, pooled, stream);
  if (error != nullptr) return error;

  const bool further = grad.x != nullptr || grad.w1 != nullptr;
  float* const grad_pooled = pooled == first ? second : first;
  const typename LocalHiddenGradient<T>::Args hidden{local,
                                                     g,
                                                     x,
                                                     w2,
                                                     pooled,
                                                     further ? grad_pooled : nullptr,
                                                     grad.w2 == nullptr ? nullptr : partial,
                                                     hidden_splits(local),
                                                     vec};
  if ((error = launch<LocalHiddenGradient<T>>(hidden, stream)) != nullptr) return error;
  if (grad.w2 != nullptr) error = finish<T>(local, partial, hidden.splits, false, grad.w2, stream);
  if (error != nullptr || !further) return error;

  if ((error = box<true>(local, shape.window, grad_pooled, third, grad_mixed, stream)) != nullptr) return error;
  const typename LocalInputGradient<T>::Args input{local,
                                                   g,
                                                   x,
                                                   w1,
                                                   w2,
                                                   pooled,
                                                   grad_mixed,
                                                   static_cast<T*>(grad.x),
                                                   grad.w1 == nullptr ? nullptr : partial,
                                                   input_splits(local),
                                                   1.0f / static_cast<float>(local.image.channels),
                                                   vec && vectors<T>(grad.x, pixels)};
  if ((error = launch<LocalInputGradient<T>>(input, stream)) != nullptr) return error;
  return grad.w1 == nullptr ? nullptr : finish<T>(local, partial, input.splits, true, grad.w1, stream);
}

}  // namespace

int64_t local_attention_workspace(const LocalAttentionProblem& shape) {
  const Local local(shape);
  return 2 * local.planes() * local.image.pixels;
}

int64_t local_attention_backward_workspace(const LocalAttentionProblem& shape) {
  const Local local(shape);
  const int64_t splits = larger(hidden_splits(local), input_splits(local));
  return 3 * local.planes() * local.image.pixels + shape.batch * splits * shape.channels * shape.hidden;
}

const char* local_attention_forward(const LocalAttentionProblem& shape, const LocalAttentionInputs& in,
                                    const void* residual, void* out, float* workspace, Stream stream) {
  if (const char* why = refusal(shape)) return why;
  return dispatch(shape.dtype,
                  [&](auto t) { return forward<decltype(t)>(shape, in, residual, out, workspace, stream); });
}

const char* local_attention_backward(const LocalAttentionProblem& shape, const LocalAttentionInputs& in,
                                     const void* grad_out, const LocalAttentionGradients& grad, float* workspace,
                                     Stream stream) {
  if (const char* why = refusal(shape)) return why;
  return dispatch(shape.dtype,
                  [&](auto t) { return backward<decltype(t)>(shape, in, grad_out, grad, workspace, stream); });
}

}  // namespace lkca::cuda
