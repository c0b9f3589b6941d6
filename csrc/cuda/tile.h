// The tiles all kernels work on: 64 rows of the upsampling weight by 128 low-resolution pixels, a block of
// 256 threads on each; how they lie in the shuffled cube; their matrix product.
//
// A weight row m = (c*s + i)*s + j holds sub-pixel (i, j) of channel c. For fixed u = c*s + i its s rows
// interleave along one HR row: pixel x of LR row y gives the elements x*s + j of HR row y*s + i. So a tile
// takes whole groups of s weight rows ("u rows"), and the flat pixel n of a u row becomes s neighbours
// q = n*s + j, which are written together.
#pragma once

#include "grid.h"

namespace lkca::cuda {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr int kTileRows = 64;     // weight rows
constexpr int kTilePixels = 128;  // LR pixels
constexpr int kMaxScale = kTileRows;

/// (B, C, h, w) and the scale: the geometry of the shuffle.
struct Shuffle {
  int64_t batch = 0, height = 0, width = 0, pixels = 0;
  int channels = 0, scale = 1, width_hr = 0;
  int tile_u = 0;  // u rows in a tile
  int64_t u_rows = 0, u_tiles = 0, pixel_tiles = 0;
  FastDiv by_scale, by_width, by_width_hr;

  Shuffle() = default;
  explicit Shuffle(const ShuffleProblem& shape)
      : Shuffle(shape.batch, shape.channels, shape.height, shape.width, shape.scale) {}
  Shuffle(int64_t batch, int64_t channels, int64_t height, int64_t width, int64_t scale)
      : batch(batch),
        height(height),
        width(width),
        pixels(height * width),
        channels(static_cast<int>(channels)),
        scale(static_cast<int>(scale)),
        width_hr(static_cast<int>(width * scale)),
        tile_u(kTileRows / static_cast<int>(scale)),
        u_rows(channels * scale),
        u_tiles(ceil_div(u_rows, tile_u)),
        pixel_tiles(ceil_div(pixels, kTilePixels)),
        by_scale(scale),
        by_width(larger<int64_t>(1, width)),
        by_width_hr(larger<int64_t>(1, width * scale)) {}

  LKCA_HD int64_t weight_rows() const { return u_rows * scale; }
  /// Elements of one channel of the HR cube.
  LKCA_HD int64_t plane_hr() const { return pixels * scale * scale; }
};

/// Ranges of pixel tiles, each with a partial sum of its own, where every one occupies `others` blocks: as many as fill
/// any card, whatever the shape allows.
inline int64_t partial_splits(const Shuffle& shuffle, int64_t others) {
  constexpr int64_t kBlocks = 512;
  return larger<int64_t>(1, smaller(shuffle.pixel_tiles, ceil_div(kBlocks, larger<int64_t>(1, others))));
}

/// Blocks to each of `tiles` pixel tiles, which share its `chunks`, so that all `processors` end together, with as many
/// blocks at once as they can have (`at_once` each). A block takes about as long as its chunks and half a chunk.
inline int64_t even_splits(int64_t tiles, int64_t chunks, int64_t processors, int64_t at_once) {
  int64_t best = 1, least = 0;
  for (int64_t splits = 1; splits <= chunks; ++splits) {
    const int64_t of_processor = larger(at_once, ceil_div(tiles * splits, processors));
    const int64_t time = of_processor * (2 * ceil_div(chunks, splits) + 1);
    if (splits == 1 || time < least) best = splits, least = time;
  }
  return best;
}

/// Consecutive pixels of one LR plane, as they lie in the HR plane.
struct PixelTile {
  int64_t first, row;    // flat index of the first pixel; its LR row
  int count, x, column;  // pixels; LR and HR column of the first

  LKCA_BODY PixelTile(const Shuffle& shuffle, int64_t index)
      : first(index * kTilePixels),
        row(first / shuffle.width),
        count(static_cast<int>(smaller<int64_t>(kTilePixels, shuffle.pixels - first))),
        x(static_cast<int>(first - row * shuffle.width)),
        column(x * shuffle.scale) {}
};

/// One u row of a batch element: its channel's plane, its sub-row, and where that starts in the HR cube.
struct URow {
  int64_t plane, offset;
  int sub;

  LKCA_BODY URow(const Shuffle& shuffle, int64_t batch, int u) {
    const int channel = shuffle.by_scale.div(u);
    sub = u - channel * shuffle.scale;
    plane = batch * shuffle.channels + channel;
    offset = plane * shuffle.plane_hr() + static_cast<int64_t>(sub) * shuffle.width_hr;
  }
};

/// Element q of a tile's u rows: its HR column, and its offset from the start of the u row.
struct Element {
  int q, column;
  int64_t offset;

  LKCA_BODY Element(const Shuffle& shuffle, const PixelTile& tile, int q) : q(q) {
    const int along = tile.column + q;
    const int down = shuffle.by_width_hr.div(along);
    column = along - down * shuffle.width_hr;
    offset = (tile.row + down) * shuffle.scale * shuffle.width_hr + column;
  }
};

/// Calls f(u, element) for every V neighbouring elements of the tile's first `u_count` u rows: a warp (several where
/// the tile has few u rows) to a u row, its lanes along the HR row. V divides the row length, or is 1. `u`: Batch u
/// rows of the tile at a time, the last of which may be u_count or more.
template <int V, int Batch, class Grid, class F>
LKCA_BODY void for_each_element(const Grid& grid, const Shuffle& shuffle, const PixelTile& tile, int u_count, F f) {
  const int warp = grid.thread() / 32, lane = grid.thread() % 32;
  const int across = larger(1, kWarps / shuffle.tile_u), down = kWarps / across;
  for (int q = (warp / down * 32 + lane) * V; q < tile.count * shuffle.scale; q += across * 32 * V) {
    const Element element(shuffle, tile, q);
    for (int first = warp % down; first < u_count; first += Batch * down) {
      int u[Batch];
      LKCA_UNROLL
      for (int i = 0; i < Batch; ++i) u[i] = first + i * down;
      f(u, element);
    }
  }
}

template <auto N>
struct Constant {
  static constexpr auto value = N;
};

template <int V, class T>
LKCA_BODY void load_elements(const T* p, float (&value)[V]) {
  if constexpr (V == 1) {
    value[0] = to_float(load(p));
  } else {
    unpack(load16_once(p), value, T{});
  }
}

template <int V, class T>
LKCA_BODY void store_elements(T* p, const float (&value)[V]) {
  if constexpr (V == 1) {
    store(p, from_float<T>(value[0]));
  } else {
    store16_once(p, pack(value, T{}));
  }
}

// ---- operands of a product in shared memory ------------------------------------------------------------
/// op(i, k), i a row of A or a column of B. 16-bit types: k is contiguous, so that the pairs of a tensor-core
/// fragment are words, and a row has 8 elements more than kc, which spreads a fragment's words over all
/// banks. float: i is contiguous.
template <class T>
struct Operand {
  LKCA_HD static int stride(int, int kc) { return kc + 8; }
  LKCA_HD static int size(int extent, int kc) { return extent * (kc + 8); }
  LKCA_HD static int at(int i, int k, int stride) { return i * stride + k; }
};
template <>
struct Operand<float> {
  LKCA_HD static int stride(int extent, int) { return extent + 4; }
  LKCA_HD static int size(int extent, int kc) { return kc * (extent + 4); }
  LKCA_HD static int at(int i, int k, int stride) { return k * stride + i; }
};

template <class T>
LKCA_HD int operand_bytes(int extent, int kc) {
  return Operand<T>::size(extent, kc) * static_cast<int>(sizeof(T));  // a multiple of 16
}

/// Steps of k that the operand tiles of the forward hold: a multiple of 16 (the tensor cores' step), at most 128 bytes.
template <class T>
LKCA_HD int k_step(int64_t rank) {
  return static_cast<int>(smaller<int64_t>(128 / sizeof(T), ceil_div(rank, 16) * 16));
}

/// op(i, k) = src[i*ld + k], zero outside valid_i x valid_k. `vec`: rows are 16-byte aligned and whole vectors.
template <class T, class Grid>
LKCA_BODY void load_rows(const Grid& grid, T* op, int extent, int kc, const T* src, int64_t ld, int64_t valid_i,
                         int64_t valid_k, bool vec) {
  int thread = grid.thread();
  compute_here(thread);
  const int stride = Operand<T>::stride(extent, kc);
  if (vec) {
    constexpr int V = kVec<T>;
    const int per_row = kc / V;
    for (int index = thread; index < extent * per_row; index += kThreads) {
      const int i = index / per_row, k = (index - i * per_row) * V;
      Vec16 vector = {{0, 0, 0, 0}};
      if (i < valid_i && k < valid_k) vector = load16(src + i * ld + k);
      if constexpr (sizeof(T) == 4) {
        LKCA_UNROLL
        for (int e = 0; e < V; ++e) op[Operand<T>::at(i, k + e, stride)] = bits_float(vector.word[e]);
      } else {
        *reinterpret_cast<Vec16*>(op + Operand<T>::at(i, k, stride)) = vector;
      }
    }
  } else {
    for (int index = thread; index < extent * kc; index += kThreads) {
      const int i = index / kc, k = index - i * kc;
      op[Operand<T>::at(i, k, stride)] = i < valid_i && k < valid_k ? load(src + i * ld + k) : from_float<T>(0.0f);
    }
  }
}

/// op(i, k) = src[k*ld + i], or its magnitude, zero outside valid_i x valid_k. `vec` as above.
template <int Extent, bool kMagnitude = false, class T, class Grid>
LKCA_BODY void load_columns(const Grid& grid, T* op, int kc, const T* src, int64_t ld, int64_t valid_i, int64_t valid_k,
                            bool vec) {
  int thread = grid.thread();
  compute_here(thread);
  const int stride = Operand<T>::stride(Extent, kc);
  if (vec) {
    // A warp takes 4 neighbouring vectors of 8 values of k: 64-byte pieces in, few bank conflicts out.
    constexpr int V = kVec<T>, kFours = Extent / V / 4;
    for (int index = thread; index < Extent / V * kc; index += kThreads) {
      const int rest = index / 32;
      const int i = (rest % kFours * 4 + index % 4) * V;
      const int k = rest / kFours * 8 + index / 4 % 8;
      Vec16 vector = {{0, 0, 0, 0}};
      if (i < valid_i && k < valid_k) vector = load16(src + k * ld + i);
      if constexpr (kMagnitude) {
        LKCA_UNROLL
        for (int e = 0; e < 4; ++e) vector.word[e] &= sizeof(T) == 4 ? 0x7fffffffu : 0x7fff7fffu;
      }
      if constexpr (sizeof(T) == 4) {
        *reinterpret_cast<Vec16*>(op + Operand<T>::at(i, k, stride)) = vector;
      } else {
        LKCA_UNROLL
        for (int e = 0; e < V; ++e) {
          op[Operand<T>::at(i + e, k, stride)] = T{static_cast<uint16_t>(vector.word[e / 2] >> (16 * (e % 2)))};
        }
      }
    }
  } else {
    for (int index = thread; index < Extent * kc; index += kThreads) {
      const int k = index / Extent, i = index % Extent;
      T value = from_float<T>(0.0f);
      if (i < valid_i && k < valid_k) value = load(src + k * ld + i);
      op[Operand<T>::at(i, k, stride)] = kMagnitude ? from_float<T>(magnitude(to_float(value))) : value;
    }
  }
}

/// Reads the tile's first `u_count` u rows of an HR tensor: f(u in tile, first q, float (&)[V]), V neighbours at
/// a time. `vec`: see vectors().
template <class T, class Grid, class F>
LKCA_BODY void read_hr(const Grid& grid, const Shuffle& shuffle, const PixelTile& tile, int64_t batch, int64_t u0,
                       int u_count, const T* hr, bool vec, F f) {
  const auto visit = [&](auto width) {
    constexpr int V = decltype(width)::value;
    for_each_element<V, 2>(grid, shuffle, tile, u_count, [&](const int (&u)[2], const Element& element) {
      float value[2][V];
      LKCA_UNROLL
      for (int i = 0; i < 2; ++i) {
        if (u[i] >= u_count) continue;
        load_elements(hr + URow(shuffle, batch, static_cast<int>(u0) + u[i]).offset + element.offset, value[i]);
      }
      LKCA_UNROLL
      for (int i = 0; i < 2; ++i) {
        if (u[i] < u_count) f(u[i], element.q, value[i]);
      }
    });
  };
  if (vec) {
    visit(Constant<kVec<T>>{});
  } else {
    visit(Constant<1>{});
  }
}

/// Sum over the block, valid in thread 0; `room`: kWarps floats of shared memory.
template <class Grid>
LKCA_BODY float block_sum(const Grid& grid, float value, float* room) {
  value = grid.warp_sum(value);
  grid.sync();  // the room may still be read from an earlier sum
  if (grid.thread() % 32 == 0) room[grid.thread() / 32] = value;
  grid.sync();
  float total = 0.0f;
  if (grid.thread() == 0) {
    for (int warp = 0; warp < kWarps; ++warp) total += room[warp];
  }
  return total;
}

template <class T, class Grid>
LKCA_BODY void clear(const Grid& grid, T* values, int count) {
  for (int index = grid.thread(); index < count; index += kThreads) values[index] = from_float<T>(0.0f);
}

// ---- the product ----------------------------------------------------------------------------------------
/// D (M x N) += A (M x kc) B (kc x N), D in the registers of the block's threads. 16-bit types: tensor
/// cores, a warp to 32 columns of D. f(row, column, d) visits the elements of a thread.
template <class T, int M, int N>
struct TileProduct {
  static constexpr int kWarpsN = N / 32, kWarpsM = kWarps / kWarpsN;
  static constexpr int kRows = M / kWarpsM;  // of a warp
  static constexpr int kTilesM = kRows / 16, kTilesN = 4;
  static_assert(kTilesM * 16 == kRows, "a warp takes whole fragments");
  float d[kTilesM][kTilesN][4];

  template <class F>
  LKCA_BODY void for_each(int thread, F f) {
    const int warp = thread / 32, group = thread % 32 / 4, t = thread % 4;
    const int row0 = warp / kWarpsN * kRows + group, column0 = warp % kWarpsN * 32 + 2 * t;
    LKCA_UNROLL
    for (int m = 0; m < kTilesM; ++m) {
      LKCA_UNROLL
      for (int half = 0; half < 2; ++half) {
        LKCA_UNROLL
        for (int n = 0; n < kTilesN; ++n) {
          f(row0 + 16 * m + 8 * half, column0 + 8 * n, d[m][n][2 * half]);
          f(row0 + 16 * m + 8 * half, column0 + 8 * n + 1, d[m][n][2 * half + 1]);
        }
      }
    }
  }

  /// Fragments past `rows` or `columns` are left out (their d stays).
  template <class Grid>
  LKCA_BODY void add(const Grid& grid, const T* a, const T* b, int kc, int rows = M, int columns = N) {
    const int stride = Operand<T>::stride(0, kc);
    const int warp = grid.thread() / 32, group = grid.thread() % 32 / 4, t = grid.thread() % 4;
    const int row0 = warp / kWarpsN * kRows, column0 = warp % kWarpsN * 32;
    const auto word = [](const T* op, int at) { return *reinterpret_cast<const uint32_t*>(op + at); };
    for (int k = 0; k < kc; k += 16) {
      uint32_t fragment_b[kTilesN][2];
      LKCA_UNROLL
      for (int n = 0; n < kTilesN; ++n) {
        const int at = (column0 + 8 * n + group) * stride + k + 2 * t;
        fragment_b[n][0] = word(b, at);
        fragment_b[n][1] = word(b, at + 8);
      }
      LKCA_UNROLL
      for (int m = 0; m < kTilesM; ++m) {
        if (row0 + 16 * m >= rows) continue;
        const int at = (row0 + 16 * m + group) * stride + k + 2 * t;
        const uint32_t fragment_a[4] = {word(a, at), word(a, at + 8 * stride), word(a, at + 8),
                                        word(a, at + 8 * stride + 8)};
        LKCA_UNROLL
        for (int n = 0; n < kTilesN; ++n) {
          if (column0 + 8 * n < columns) grid.mma(d[m][n], fragment_a, fragment_b[n], T{});
        }
      }
    }
  }
};

/// float: multiplications and additions in registers; a thread holds M/16 rows by N/16 columns.
template <int M, int N>
struct TileProduct<float, M, N> {
  static constexpr int kRows = M / 16, kColumns = N / 16;
  float d[kRows][kColumns];

  template <class F>
  LKCA_BODY void for_each(int thread, F f) {
    LKCA_UNROLL
    for (int m = 0; m < kRows; ++m) {
      LKCA_UNROLL
      for (int n = 0; n < kColumns; ++n) f(thread / 16 * kRows + m, thread % 16 + 16 * n, d[m][n]);
    }
  }

  template <class Grid>
  LKCA_BODY void add(const Grid& grid, const float* a, const float* b, int kc, int rows = M, int columns = N) {
    const int row0 = grid.thread() / 16 * kRows, column0 = grid.thread() % 16;
    const int stride_a = Operand<float>::stride(M, kc), stride_b = Operand<float>::stride(N, kc);
    if (row0 >= rows || column0 >= columns) return;
    LKCA_UNROLL4
    for (int k = 0; k < kc; ++k) {
      float row[kRows], column[kColumns];
      LKCA_UNROLL
      for (int m = 0; m < kRows; ++m) row[m] = a[k * stride_a + row0 + m];
      LKCA_UNROLL
      for (int n = 0; n < kColumns; ++n) column[n] = b[k * stride_b + column0 + 16 * n];
      LKCA_UNROLL
      for (int m = 0; m < kRows; ++m) {
        LKCA_UNROLL
        for (int n = 0; n < kColumns; ++n) d[m][n] += row[m] * column[n];
      }
    }
  }
};

// ---- floats in shared memory, whole vectors at a time where V allows (p is then aligned to 16 bytes) -----------
template <int V>
LKCA_BODY void read_floats(const float* p, float (&value)[V]) {
  if constexpr (V % 4 != 0) {
    LKCA_UNROLL
    for (int v = 0; v < V; ++v) value[v] = p[v];
  } else {
    LKCA_UNROLL
    for (int v = 0; v < V; v += 4) {
      const Vec16 vector = *reinterpret_cast<const Vec16*>(p + v);
      LKCA_UNROLL
      for (int e = 0; e < 4; ++e) value[v + e] = bits_float(vector.word[e]);
    }
  }
}
template <int V>
LKCA_BODY void write_floats(float* p, const float (&value)[V]) {
  if constexpr (V % 4 != 0) {
    LKCA_UNROLL
    for (int v = 0; v < V; ++v) p[v] = value[v];
  } else {
    LKCA_UNROLL
    for (int v = 0; v < V; v += 4) {
      Vec16 vector;
      LKCA_UNROLL
      for (int e = 0; e < 4; ++e) vector.word[e] = float_bits(value[v + e]);
      *reinterpret_cast<Vec16*>(p + v) = vector;
    }
  }
}

// ---- the staged tile: float [u][q], from where it leaves along the HR rows --------------------------------
struct Stage {
  float* values;
  int stride;

  LKCA_BODY Stage(float* values, const Shuffle& shuffle) : values(values), stride(row_length(shuffle)) {}
  /// 4 floats more than the row: neighbouring u rows start in other banks.
  LKCA_HD static int row_length(const Shuffle& shuffle) { return kTilePixels * shuffle.scale + 4; }
  LKCA_HD static int bytes(const Shuffle& shuffle) { return shuffle.tile_u * row_length(shuffle) * 4; }
  LKCA_BODY float& at(int u, int q) const { return values[u * stride + q]; }

  template <int V>
  LKCA_BODY void read(int u, int q, float (&value)[V]) const {
    read_floats(&at(u, q), value);
  }
  template <int V>
  LKCA_BODY void write(int u, int q, const float (&value)[V]) const {
    write_floats(&at(u, q), value);
  }
};

}  // namespace lkca::cuda
