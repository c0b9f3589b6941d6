// The low-rank forward for 16-bit types, s = 2, 4 or 8 and ranks up to 32: from the tensor cores straight to the HR
// rows.
//
// The pixels are the rows of the product here and the weight rows its columns, both in an order that leaves each thread
// with whole 16-byte vectors of an HR row: the 8/s pixels of a vector are rows `group` and `group + 8` of the fragments
// (of two fragments, which take turns with the pixels of a vector), its s sub-pixels are the two columns of a thread in
// s/2 fragments. Nothing is staged, and a warp writes 128 neighbouring bytes to each of four u rows.
#pragma once

#include <type_traits>

#include "bicubic_product.h"

namespace lkca::cuda {

template <class T, int S, bool kLowRes>
struct LowrankRows {
  static_assert(sizeof(T) == 2 && (S == 2 || S == 4 || (S == 8 && !kLowRes)), "a vector is whole pixels");
  static constexpr bool kLines = kLowRes && S == 2;    // the LR skip is interpolated line by line, in floats,
  static constexpr bool kProduct = kLowRes && S == 4;  // or is a part of the product
  static constexpr int threads = kThreads, min_blocks = kLines || S == 8 ? 2 : kLowRes ? 3 : 4;
  static constexpr int kRows = kLines ? 128 : 256, kU = kRows / S;  // weight rows and u rows of a chunk
  static constexpr int kFragments = S / 2;                          // of the columns of 4 u rows
  static constexpr int kPixels = 8 / S, kVectors = 4 / kPixels;     // of a vector; vectors of a thread and u row
  static constexpr int kSteps = 2, kc = 16 * kSteps;
  static constexpr int kShare = kc / 4;    // of k, which may be in any order: what a thread has is one vector
  static constexpr int kStrideZ = kc + 6;  // 8 pixels are 152 words: a warp of load_z() writes to every bank once
  static constexpr int kReach = 2, kSamples = kPixels + 2 * kReach;
  static constexpr int kLine = 144;  // at least kTilePixels + 2 * kReach; u rows start in other banks

  struct Args {
    Shuffle shuffle;
    const T *z, *weight, *bias, *gate, *skip;
    T* out;
    Bicubic bicubic;
    int64_t rank, chunks, splits;
    bool vec_z, vec_weight, vec_skip;  // vec_skip: of the LR skip, see BicubicProduct
  };

  struct alignas(16) Row {
    int64_t offset;
    float gate;
    int unused;
  };
  /// What is not needed while HR rows are written, and would hold registers then.
  struct Work {
    int64_t index, batch;
    int first, chunk, last;  // the first one, the one at hand, behind the last one
  };

  struct Nothing {
    struct Shared {};
    struct Words {};
    LKCA_BODY Nothing(int, const TableTaps*, Shared&) {}
  };
  using Interpolation = std::conditional_t<kProduct, BicubicProduct<T>, Nothing>;

  struct Shared {
    alignas(16) T z[kTilePixels * kStrideZ];
    T weight[kRows * kc];
    Row rows[kU];
    alignas(16) float shift[kRows];  // gate * bias
    volatile Work work;
    TableTaps table[S];
    float lines[kLines ? kU * kLine : 1];
    typename Interpolation::Shared interpolation;
  };

  static int64_t blocks(const Args& args) { return args.shuffle.batch * args.shuffle.pixel_tiles * args.splits; }
  static int64_t shared_bytes(const Args&) { return sizeof(Shared); }

  /// Place of weight row m of a chunk in shared memory: the columns of a fragment one after another.
  LKCA_HD static int place(int m) {
    const int u = m / S, j = m % S;
    return (u / 4 * kFragments + j / 2) * 8 + u % 4 * 2 + j % 2;
  }

  /// z[pixel][k] from src[k][pixel]: a thread takes 8 pixels of two neighbouring k, which are one word.
  template <class Grid>
  LKCA_BODY static void load_z(const Grid& grid, const Args& args, T* z, const T* src, int count) {
    constexpr int V = kVec<T>;
    static_assert(kTilePixels / V * kc / 2 == kThreads);
    const int rank = static_cast<int>(args.rank);
    int thread = grid.thread();
    compute_here(thread);
    if (args.vec_z) {
      const int i = (thread / 32 % 4 * 4 + thread % 4) * V, k = (thread / 128 * 8 + thread / 4 % 8) * 2;
      Vec16 even = {{0, 0, 0, 0}}, odd = {{0, 0, 0, 0}};
      const T* const at = src + k * args.shuffle.pixels + i;
      if (i < count && k < rank) even = load16(at);
      if (i < count && k + 1 < rank) odd = load16(at + args.shuffle.pixels);
      auto* const words = reinterpret_cast<uint32_t*>(z + i * kStrideZ + k);
      LKCA_UNROLL
      for (int e = 0; e < V; e += 2) {
        words[e * (kStrideZ / 2)] = (even.word[e / 2] & 0xffffu) | odd.word[e / 2] << 16;
        words[(e + 1) * (kStrideZ / 2)] = even.word[e / 2] >> 16 | (odd.word[e / 2] & 0xffff0000u);
      }
    } else {
      LKCA_NO_UNROLL
      for (int index = thread; index < kTilePixels * kc; index += kThreads) {
        const int k = index / kTilePixels, i = index % kTilePixels;
        const bool in = i < count && k < rank;
        z[i * kStrideZ + k] = in ? load(src + k * args.shuffle.pixels + i) : from_float<T>(0.0f);
      }
    }
  }

  template <class Grid>
  LKCA_BODY static void load_weight(const Grid& grid, const Args& args, T* weight, int64_t row0, int rows) {
    constexpr int V = kVec<T>;
    int thread = grid.thread();
    compute_here(thread);
    if (args.vec_weight) {
      for (int index = thread; index < kRows * (kc / V); index += kThreads) {
        const int m = index / (kc / V), k = index % (kc / V) * V;
        Vec16 vector = {{0, 0, 0, 0}};
        if (m < rows && k < args.rank) vector = load16(args.weight + (row0 + m) * args.rank + k);
        *reinterpret_cast<Vec16*>(weight + place(m) * kc + k) = vector;
      }
    } else {
      LKCA_NO_UNROLL
      for (int index = thread; index < kRows * kc; index += kThreads) {
        const int m = index / kc, k = index % kc;
        const bool in = m < rows && k < args.rank;
        weight[place(m) * kc + k] = in ? load(args.weight + (row0 + m) * args.rank + k) : from_float<T>(0.0f);
      }
    }
  }

  /// Interpolation down the columns: five LR rows give all S u rows of a channel.
  template <class Grid>
  LKCA_BODY static void fill_lines(const Grid& grid, const Args& args, const PixelTile& tile, int64_t plane0,
                                   int channels, Shared& shared) {
    constexpr int kWidth = kTilePixels + 2 * kReach;
    const Shuffle& shuffle = args.shuffle;
    int thread = grid.thread();
    compute_here(thread);
    LKCA_NO_UNROLL
    for (int index = thread; index < channels * kWidth; index += kThreads) {
      const int channel = index / kWidth, i = index % kWidth;
      const int64_t pixel = tile.first + i - kReach;
      if (pixel < 0 || pixel >= shuffle.pixels || i >= tile.count + 2 * kReach) continue;
      const int two_rows = 2 * static_cast<int>(shuffle.width);  // so that nothing is negative
      const int y = static_cast<int>(tile.row) - 2 + shuffle.by_width.div(tile.x + i - kReach + two_rows);
      const T* const at = args.skip + (plane0 + channel) * shuffle.pixels + pixel;
      float sample[5];
      if (y >= kReach && y + kReach < shuffle.height) {
        LKCA_UNROLL
        for (int k = 0; k < 5; ++k) sample[k] = to_float(load(at + (k - kReach) * shuffle.width));
      } else {
        LKCA_UNROLL
        for (int k = 0; k < 5; ++k) {
          const int from = inside(y + k - kReach, static_cast<int>(shuffle.height), args.bicubic);
          sample[k] = to_float(load(at + (from - y) * shuffle.width));
        }
      }
      float* const line = shared.lines + channel * S * kLine + i;
      const auto put = [&](int sub, const float* from) {
        const TableTaps taps = shared.table[sub];
        float sum = 0.0f;
        LKCA_UNROLL
        for (int k = 0; k < 4; ++k) sum += taps.weight[k] * from[k];
        line[sub * kLine] = sum;
      };
      LKCA_NO_UNROLL
      for (int sub = 0; sub < S / 2; ++sub) put(sub, sample);  // the upper half begins two rows above
      LKCA_NO_UNROLL
      for (int sub = S / 2; sub < S; ++sub) put(sub, sample + 1);
    }
  }

  /// Interpolation along the row: one vector, from pixel `pixel` of the tile, LR column x.
  LKCA_BODY static void along_row(const Args& args, const Shared& shared, int u, int pixel, int x, float (&value)[8]) {
    compute_here(pixel);
    compute_here(x);
    const float* const line = shared.lines + u * kLine + pixel;
    const int width = static_cast<int>(args.shuffle.width);
    float sample[kSamples];
    if (x >= kReach && x + kSamples - kReach <= width) {
      LKCA_UNROLL
      for (int i = 0; i < kSamples; ++i) sample[i] = line[i];
    } else {
      LKCA_UNROLL
      for (int i = 0; i < kSamples; ++i) {
        sample[i] = line[inside(x + i - kReach, width, args.bicubic) - x + kReach];
      }
    }
    LKCA_UNROLL
    for (int j = 0; j < S; ++j) {
      const TableTaps taps = shared.table[j];
      LKCA_UNROLL
      for (int e = 0; e < kPixels; ++e) {
        float sum = 0.0f;
        LKCA_UNROLL
        for (int k = 0; k < 4; ++k) sum += taps.weight[k] * sample[e + (2 * j + 1 < S ? 0 : 1) + k];
        value[e * S + j] = sum;
      }
    }
  }

  /// The operand A: the 4 pixels that a thread holds.
  LKCA_BODY static void load_pixels(const T* z, int pixel0, int group, int t, uint32_t (&a)[kSteps][2][4]) {
    LKCA_UNROLL
    for (int slot = 0; slot < 4; ++slot) {
      const int pixel = pixel0 + (slot / kPixels * 8 + group) * kPixels + slot % kPixels;
      // volatile: in single words, which go to the registers of their fragments at once
      const auto* const share = reinterpret_cast<const volatile uint32_t*>(z + pixel * kStrideZ + kShare * t);
      LKCA_UNROLL
      for (int step = 0; step < kSteps; ++step) {
        a[step][slot % 2][slot / 2] = share[2 * step];
        a[step][slot % 2][slot / 2 + 2] = share[2 * step + 1];
      }
    }
  }

  template <class Grid>
  LKCA_BODY static void run(const Grid& grid, const Args& args, unsigned char* memory) {
    const Shuffle& shuffle = args.shuffle;
    Shared& shared = *reinterpret_cast<Shared*>(memory);
    if constexpr (kLowRes) fill_bicubic_table(grid, shuffle, args.bicubic, shared.table);
    if constexpr (kProduct) grid.sync();
    [[maybe_unused]] Interpolation interpolation(grid.thread(), shared.table, shared.interpolation);

    const int64_t work_count = shuffle.batch * shuffle.pixel_tiles * args.splits;
    for (int64_t work = grid.block(); work < work_count; work = shared.work.index + grid.blocks()) {
      grid.sync();  // what the last work left in shared memory has been read
      int thread = grid.thread();
      compute_here(thread);
      const int group = thread % 32 / 4;
      const int pixel0 = thread / 32 % 4 * 32;
      const int64_t split = work % args.splits, batch_tile = work / args.splits;
      int64_t batch = batch_tile / shuffle.pixel_tiles;
      const PixelTile tile(shuffle, batch_tile % shuffle.pixel_tiles);
      int offset[kVectors];  // in vectors, from the start of u row 0 of a channel
      [[maybe_unused]] int column[kVectors];
      int after = tile.count - pixel0 - group * kPixels;  // pixels of the tile from this thread's first on
      compute_here(after);
      LKCA_UNROLL
      for (int v = 0; v < kVectors; ++v) {
        const int pixel = pixel0 + (8 * v + group) * kPixels;
        const Element element(shuffle, tile, pixel * S);
        offset[v] = static_cast<int>(element.offset / 8);
        column[v] = element.column / S;
      }
      const int first = static_cast<int>(args.chunks * split / args.splits);
      const int last = static_cast<int>(args.chunks * (split + 1) / args.splits);
      if (thread == 0) {
        shared.work.index = work;
        shared.work.batch = batch;
        shared.work.first = first;
        shared.work.last = last;
      }
      if constexpr (kProduct) {
        const int channel = first * (kU / S) + thread / 128, end = smaller(last * (kU / S), shuffle.channels);
        const T* const plane = args.skip + (batch * shuffle.channels + channel) * shuffle.pixels + tile.first;
        interpolation.place(shuffle, tile, thread, pixel0, plane, (end - channel + 1) / 2, args.bicubic, args.vec_skip);
        interpolation.begin(grid, 2 * shuffle.pixels, args.vec_skip);
      }
      const auto within = [&](int v) { return 8 * v * kPixels < after; };
      load_z(grid, args, shared.z, args.z + batch * args.rank * shuffle.pixels + tile.first, tile.count);
      uint32_t a[kSteps][2][4];  // the same for every chunk
      LKCA_NO_UNROLL
      for (int chunk = first;;) {
        if (grid.thread() == 0) shared.work.chunk = chunk;
        const int u0 = chunk * kU;
        const int u_count = static_cast<int>(smaller<int64_t>(kU, shuffle.u_rows - u0)), rows = u_count * S;
        load_weight(grid, args, shared.weight, static_cast<int64_t>(u0) * S, rows);
        int m = grid.thread();  // and a thread's row of the weight
        compute_here(m);
        if (m < rows) {
          const URow row(shuffle, batch, u0 + m / S);
          const float gate = args.gate == nullptr ? 1.0f : to_float(load(args.gate + row.plane));
          const float bias = args.bias == nullptr ? 0.0f : to_float(load(args.bias + u0 * int64_t{S} + m));
          shared.shift[m] = gate * bias;
          if (m % S == 0) shared.rows[m / S] = Row{row.offset, gate, 0};
        }
        if constexpr (kLines) {  // a chunk is whole channels: kU is a multiple of S
          fill_lines(grid, args, tile, batch * shuffle.channels + u0 / S, u_count / S, shared);
        }
        grid.sync();

        if (chunk == shared.work.first) load_pixels(shared.z, m / 32 % 4 * 32, m % 32 / 4, m % 4, a);
        constexpr int kPerRow = 2 * kFragments * kc;  // elements of the weight for a u row, on average
        const int share0 = m % 32 / 4 * kc + (kShare - kPerRow) * (m % 4);
        LKCA_NO_UNROLL
        for (int u = m / 128 * 4 + m % 4; u < (u_count + 3) / 4 * 4; u += 8) {
          [[maybe_unused]] typename Interpolation::Words words;
          if constexpr (kProduct) {
            interpolation.next(grid, 2 * shuffle.pixels, args.vec_skip, words);
          } else {
            grid.sync_warp();
          }
          const bool exists = S >= 4 || u < u_count;  // 4 u rows are within one channel, or two channels
          const Row row = shared.rows[exists ? u : 0];
          Vec16 skip[kVectors];
          LKCA_UNROLL
          for (int v = 0; v < kVectors; ++v) {
            skip[v] = Vec16{{0, 0, 0, 0}};
            if (!kLowRes && args.skip != nullptr && exists && within(v)) {
              skip[v] = load16_once(reinterpret_cast<const Vec16*>(args.skip + row.offset) + offset[v]);
            }
          }
          float d[2][kFragments][4];  // of m16n8k16: the pixel's and j's fragment
          LKCA_UNROLL
          for (int n = 0; n < kFragments; ++n) {
            LKCA_UNROLL
            for (int m = 0; m < 2; ++m) {
              LKCA_UNROLL
              for (int e = 0; e < 4; ++e) d[m][n][e] = 0.0f;
            }
            const auto share = *reinterpret_cast<const Vec16*>(shared.weight + u * kPerRow + n * 8 * kc + share0);
            LKCA_UNROLL
            for (int step = 0; step < kSteps; ++step) {
              const uint32_t b[2] = {share.word[2 * step], share.word[2 * step + 1]};
              LKCA_UNROLL
              for (int m = 0; m < 2; ++m) grid.mma(d[m][n], a[step][m], b, T{});
            }
          }
          float shift[S];
          read_floats(shared.shift + (exists ? u : 0) * S, shift);
          LKCA_UNROLL
          for (int m = 0; m < 2; ++m) {
            LKCA_UNROLL
            for (int n = 0; n < kFragments; ++n) {
              LKCA_UNROLL
              for (int e = 0; e < 4; ++e) d[m][n][e] = row.gate * d[m][n][e] + shift[2 * n + e % 2];
            }
          }
          if constexpr (kProduct) interpolation.add(grid, words, args.bicubic, d);
          LKCA_UNROLL
          for (int v = 0; v < kVectors; ++v) {
            float value[8], added[8];
            LKCA_UNROLL
            for (int e = 0; e < 8; ++e) {
              const int slot = v * kPixels + e / S, j = e % S;
              value[e] = d[slot % 2][j / 2][slot / 2 * 2 + j % 2];
            }
            const bool in = exists && within(v);
            if (kLines && !in) continue;
            if (!kProduct && args.skip != nullptr) {
              if constexpr (kLines) {
                along_row(args, shared, u, pixel0 + (8 * v + group) * kPixels, column[v], added);
              } else {
                unpack(skip[v], added, T{});
              }
              LKCA_UNROLL
              for (int e = 0; e < 8; ++e) value[e] += added[e];
            }
            if (in) store16_once(reinterpret_cast<Vec16*>(args.out + row.offset) + offset[v], pack(value, T{}));
          }
        }
        chunk = shared.work.chunk + 1;
        if (chunk >= shared.work.last) break;
        batch = shared.work.batch;
        grid.sync();  // the last chunk has been read
      }
    }
  }
};

}  // namespace lkca::cuda
