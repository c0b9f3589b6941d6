// The low-rank forward for 16-bit types, s = 2, 4 or 8 and ranks up to 32: from the tensor cores straight to the HR
// rows.
//
// The pixels are the rows of the product here and the weight rows its columns, both in an order that leaves each thread
// with whole 16-byte vectors of an HR row: the 8/s pixels of a vector are rows `group` and `group + 8` of the fragments
// (of two fragments, which take turns with the pixels of a vector), its s sub-pixels are the two columns of a thread in
// s/2 fragments. These vectors change places within the warp, so that 8 neighbouring lanes write a line of 128 bytes:
// scattered over four u rows they would take four times as long in L1.
//
// A block goes along the u rows in chunks. The weight of the next chunk comes by asynchronous copies, its gates and
// biases through registers, while the one at hand is worked on.
#pragma once

#include <type_traits>

#include "bicubic_product.h"

namespace lkca::cuda {

template <class T, int S, bool kLowRes>
struct LowrankRows {
  static_assert(sizeof(T) == 2 && (S == 2 || S == 4 || (S == 8 && !kLowRes)), "a vector is whole pixels");
  static constexpr bool kLines = kLowRes && S == 2;    // the LR skip is interpolated line by line, in floats,
  static constexpr bool kProduct = kLowRes && S == 4;  // or is a part of the product
  static constexpr int threads = kProduct ? 128 : 256, min_blocks = kLines || S == 8 ? 2 : 4;
  static constexpr int kStep = threads / 128 * 4;                    // u rows at once: a warp has 32 pixels of four
  static constexpr int kRows = kLowRes ? 128 : 256, kU = kRows / S;  // weight rows and u rows of a chunk
  static_assert(kStep % S == 0 && kU % kStep == 0, "the next u rows of a thread are whole channels further");
  static constexpr int kFragments = S / 2;                       // of the columns of 4 u rows
  static constexpr int kPixels = 8 / S, kVectors = 4 / kPixels;  // of a vector; vectors of a thread and u row
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
    int64_t rank, chunks, splits;      // blocks that share a pixel tile, each with its part of the chunks
    bool vec_z, vec_weight, vec_skip;  // vec_skip: of the LR skip, see BicubicProduct
  };

  /// What is not needed while HR rows are written, and would hold registers then.
  struct Work {
    int64_t index, batch;
    int first, last;  // the first chunk, the one behind the last
  };

  struct Nothing {
    struct Shared {};
    struct Words {};
    LKCA_BODY Nothing(int, const TableTaps*, Shared&) {}
  };
  using Interpolation = std::conditional_t<kProduct, BicubicProduct<T, threads>, Nothing>;

  struct Chunk {
    alignas(16) T weight[kRows * kc];
    alignas(16) float shift[kRows];  // gate * bias
    float gate[kU];
  };
  union Place {
    Chunk chunk;
    alignas(16) T z[kTilePixels * kStrideZ];
  };
  struct Shared {
    Place places[2];  // one is read, the other is on its way; z is in the other one first
    volatile Work work;
    TableTaps table[S];
    float lines[kLines ? kU * kLine : 1];
    typename Interpolation::Shared interpolation;
  };

  /// Of one weight row.
  struct Affine {
    T gate, bias;
  };
  static_assert(kRows <= threads, "a thread loads those of one row");

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
    const int rank = static_cast<int>(args.rank);
    int thread = grid.thread();
    compute_here(thread);
    if (args.vec_z) {
      LKCA_UNROLL
      for (int half = 0; half < 2; half += threads / 128) {
        const int i = (thread / 32 % 4 * 4 + thread % 4) * V, k = ((half + thread / 128) * 8 + thread / 4 % 8) * 2;
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
      }
    } else {
      LKCA_NO_UNROLL
      for (int index = thread; index < kTilePixels * kc; index += threads) {
        const int k = index / kTilePixels, i = index % kTilePixels;
        const bool in = i < count && k < rank;
        z[i * kStrideZ + k] = in ? load(src + k * args.shuffle.pixels + i) : from_float<T>(0.0f);
      }
    }
  }

  /// The weight rows of a chunk: sent on their way where they are whole vectors.
  template <class Grid>
  LKCA_BODY static void load_weight(const Grid& grid, const Args& args, T* weight, int chunk) {
    constexpr int V = kVec<T>;
    const int64_t row0 = int64_t{chunk} * kRows;
    const int rows = static_cast<int>(smaller<int64_t>(kRows, args.shuffle.weight_rows() - row0));
    const T* const from = args.weight + row0 * args.rank;
    const int rank = static_cast<int>(args.rank);
    int thread = grid.thread();
    compute_here(thread);
    if (args.vec_weight) {
      LKCA_UNROLL
      for (int round = 0; round < kRows * (kc / V) / threads; ++round) {
        const int index = round * threads + thread, m = index / (kc / V), k = index % (kc / V) * V;
        if (k < rank) {
          grid.template copy<16>(weight + place(m) * kc + k, from + m * rank + k, m < rows);
        } else {
          *reinterpret_cast<Vec16*>(weight + place(m) * kc + k) = Vec16{{0, 0, 0, 0}};
        }
      }
    } else {
      LKCA_NO_UNROLL
      for (int index = thread; index < kRows * kc; index += threads) {
        const int m = index / kc, k = index % kc;
        weight[place(m) * kc + k] = m < rows && k < rank ? load(from + m * rank + k) : from_float<T>(0.0f);
      }
    }
  }

  /// Of row grid.thread() of a chunk. Nothing waits for what is loaded here.
  template <class Grid>
  LKCA_BODY static Affine load_affine(const Grid& grid, const Args& args, int64_t batch, int chunk) {
    const int64_t m = int64_t{chunk} * kRows + grid.thread();
    Affine affine = {from_float<T>(1.0f), from_float<T>(0.0f)};
    if (grid.thread() < kRows && m < args.shuffle.weight_rows()) {
      if (args.gate != nullptr) affine.gate = load(args.gate + batch * args.shuffle.channels + m / (S * S));
      if (args.bias != nullptr) affine.bias = load(args.bias + m);
    }
    return affine;
  }
  template <class Grid>
  LKCA_BODY static void store_affine(const Grid& grid, const Affine& affine, Chunk& chunk) {
    const int m = grid.thread();
    if (m >= kRows) return;
    const float gate = to_float(affine.gate);
    chunk.shift[m] = gate * to_float(affine.bias);
    if (m % S == 0) chunk.gate[m / S] = gate;
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
    for (int index = thread; index < channels * kWidth; index += threads) {
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

  /// What lane `from` of the warp has.
  template <class Grid>
  LKCA_BODY static Vec16 exchange(const Grid& grid, const Vec16& vector, int from) {
    Vec16 other;
    LKCA_UNROLL
    for (int e = 0; e < 4; ++e) other.word[e] = grid.shuffle(vector.word[e], from);
    return other;
  }

  template <class Grid>
  LKCA_BODY static void run(const Grid& grid, const Args& args, unsigned char* memory) {
    const Shuffle& shuffle = args.shuffle;
    Shared& shared = *reinterpret_cast<Shared*>(memory);
    if constexpr (kLowRes) {
      fill_bicubic_table(grid, shuffle, args.bicubic, shared.table);
      grid.sync();
    }
    [[maybe_unused]] Interpolation interpolation(grid.thread(), shared.table, shared.interpolation);

    const int64_t work_count = shuffle.batch * shuffle.pixel_tiles * args.splits;
    for (int64_t work = grid.block(); work < work_count; work = shared.work.index + grid.blocks()) {
      grid.sync();  // what the last work left in shared memory has been read
      int thread = grid.thread();
      compute_here(thread);
      const int group = thread % 32 / 4;
      const int pixel0 = thread / 32 % 4 * 32;
      const int64_t split = work % args.splits, batch_tile = work / args.splits;
      const int first = static_cast<int>(args.chunks * split / args.splits);
      const int last = static_cast<int>(args.chunks * (split + 1) / args.splits);
      const int64_t batch = batch_tile / shuffle.pixel_tiles;
      const PixelTile tile(shuffle, batch_tile % shuffle.pixel_tiles);
      int64_t at[kVectors];  // the vectors that it writes, in elements
      [[maybe_unused]] int column[kVectors];
      int after = tile.count - pixel0 - thread % 8 * kPixels;  // pixels of the tile from its first vector on
      compute_here(after);
      const URow written(shuffle, batch, first * kU + thread / 128 * 4 + thread % 32 / 8);
      LKCA_UNROLL
      for (int v = 0; v < kVectors; ++v) {
        at[v] = written.offset + Element(shuffle, tile, (pixel0 + (8 * v + thread % 8) * kPixels) * S).offset;
        if constexpr (kLines) {
          const Element element(shuffle, tile, (pixel0 + (8 * v + group) * kPixels) * S);
          column[v] = element.column / S;
        }
      }
      if (thread == 0) {
        shared.work.index = work;
        shared.work.batch = batch;
        shared.work.first = first;
        shared.work.last = last;
      }
      load_weight(grid, args, shared.places[first % 2].chunk.weight, first);
      grid.close_copies();
      if constexpr (kProduct) {
        static_assert(kStep == S && kU / kStep >= Interpolation::kStages - 1,
                      "the weight is there before the next chunk");
        const int channel = first * (kU / S), channels = smaller(last * (kU / S), shuffle.channels) - channel;
        const T* const plane = args.skip + (batch * shuffle.channels + channel) * shuffle.pixels + tile.first;
        interpolation.place(shuffle, tile, thread, pixel0, plane, channels, args.bicubic, args.vec_skip);
        interpolation.begin(grid, shuffle.pixels, args.vec_skip);
      }
      const auto within = [&](int v) { return 8 * v * kPixels < after; };
      load_z(grid, args, shared.places[(first + 1) % 2].z, args.z + batch * args.rank * shuffle.pixels + tile.first,
             tile.count);
      Affine ahead = load_affine(grid, args, batch, first);
      store_affine(grid, ahead, shared.places[first % 2].chunk);
      uint32_t a[kSteps][2][4];  // the same for every chunk
      LKCA_NO_UNROLL
      for (int chunk = first;;) {
        if constexpr (kProduct) {
          grid.template await_copies<Interpolation::kStages - 2>();  // at least so many of samples came after it
        } else {
          grid.template await_copies<0>();
        }
        grid.sync();  // this chunk is there, the one before has been read
        const Chunk& at_hand = shared.places[chunk % 2].chunk;
        int m = grid.thread();
        compute_here(m);
        const int u0 = chunk * kU;
        const int u_count = static_cast<int>(smaller<int64_t>(kU, shuffle.u_rows - u0));
        if constexpr (kLines) {  // a chunk is whole channels: kU is a multiple of S
          fill_lines(grid, args, tile, shared.work.batch * shuffle.channels + u0 / S, u_count / S, shared);
          grid.sync();
        }
        if (chunk == shared.work.first) {
          load_pixels(shared.places[(chunk + 1) % 2].z, m / 32 % 4 * 32, m % 32 / 4, m % 4, a);
          grid.sync();  // z has been read, the next chunk may come
        }
        if (chunk + 1 < shared.work.last) {
          load_weight(grid, args, shared.places[(chunk + 1) % 2].chunk.weight, chunk + 1);
          ahead = load_affine(grid, args, shared.work.batch, chunk + 1);
        }
        if constexpr (!kProduct) grid.close_copies();  // else they belong to the group of the next samples

        constexpr int kPerRow = 2 * kFragments * kc;  // elements of the weight for a u row, on average
        const int share0 = m % 32 / 4 * kc + (kShare - kPerRow) * (m % 4);
        LKCA_NO_UNROLL
        for (int u = m / 128 * 4 + m % 4; u < (u_count + 3) / 4 * 4; u += kStep) {
          [[maybe_unused]] typename Interpolation::Words words;
          if constexpr (kProduct) {
            interpolation.next(grid, shuffle.pixels, args.vec_skip, words);
          } else {
            grid.sync_warp();
          }
          // 4 u rows are within one channel, or two channels
          const bool exists = S >= 4 || u < u_count, writes = S >= 4 || u - m % 4 + m % 32 / 8 < u_count;
          Vec16 skip[kVectors];
          LKCA_UNROLL
          for (int v = 0; v < kVectors; ++v) {
            skip[v] = Vec16{{0, 0, 0, 0}};
            if (!kLowRes && args.skip != nullptr && writes && within(v)) skip[v] = load16_once(args.skip + at[v]);
          }
          float d[2][kFragments][4];  // of m16n8k16: the pixel's and j's fragment
          LKCA_UNROLL
          for (int n = 0; n < kFragments; ++n) {
            LKCA_UNROLL
            for (int half = 0; half < 2; ++half) {
              LKCA_UNROLL
              for (int e = 0; e < 4; ++e) d[half][n][e] = 0.0f;
            }
            const auto share = *reinterpret_cast<const Vec16*>(at_hand.weight + u * kPerRow + n * 8 * kc + share0);
            LKCA_UNROLL
            for (int step = 0; step < kSteps; ++step) {
              const uint32_t b[2] = {share.word[2 * step], share.word[2 * step + 1]};
              LKCA_UNROLL
              for (int half = 0; half < 2; ++half) grid.mma(d[half][n], a[step][half], b, T{});
            }
          }
          const float gate = at_hand.gate[exists ? u : 0];
          float shift[S];
          read_floats(at_hand.shift + (exists ? u : 0) * S, shift);
          LKCA_UNROLL
          for (int half = 0; half < 2; ++half) {
            LKCA_UNROLL
            for (int n = 0; n < kFragments; ++n) {
              LKCA_UNROLL
              for (int e = 0; e < 4; ++e) d[half][n][e] = gate * d[half][n][e] + shift[2 * n + e % 2];
            }
          }
          if constexpr (kProduct) interpolation.add(grid, words, d);
          LKCA_UNROLL
          for (int v = 0; v < kVectors; ++v) {
            float value[8], added[8];
            LKCA_UNROLL
            for (int e = 0; e < 8; ++e) {
              const int slot = v * kPixels + e / S, j = e % S;
              value[e] = d[slot % 2][j / 2][slot / 2 * 2 + j % 2];
            }
            if (kLines && exists && pixel0 + (8 * v + group) * kPixels < tile.count) {
              along_row(args, shared, u, pixel0 + (8 * v + group) * kPixels, column[v], added);
              LKCA_UNROLL
              for (int e = 0; e < 8; ++e) value[e] += added[e];
            }
            if (!kLowRes && args.skip != nullptr) {
              unpack(exchange(grid, skip[v], m % 4 * 8 + m % 32 / 4), added, T{});
              LKCA_UNROLL
              for (int e = 0; e < 8; ++e) value[e] += added[e];
            }
            const Vec16 vector = exchange(grid, pack(value, T{}), m % 8 * 4 + m % 32 / 8);
            if (writes && within(v)) store16_once(args.out + at[v], vector);
            at[v] += kStep / S * shuffle.plane_hr();
          }
        }
        if (++chunk >= shared.work.last) break;
        store_affine(grid, ahead, shared.places[chunk % 2].chunk);
      }
    }
  }
};

}  // namespace lkca::cuda
