// Bicubic upsampling by 4 on the tensor cores: added to the accumulators of a product whose rows are LR pixels and
// whose columns are the 16 outputs of a channel, in the order of LowrankRows.
//
// Output (i, j) of LR pixel (y, x) is the sum of K[i][dy] K[j][dx] lr[y + dy][x + dx]: for one j four columns dx, of
// which the first is -2 for j < 2 and -1 for the others; for all i together five rows dy. So a fragment of 8 columns,
// 2t + e for (i, j) = (t, 2f + e), is 20 samples times constants that are the same for every pixel and channel.
//
//  - k is ordered so that a register of the operand A holds two neighbouring samples of an LR row: lane t has row
//    dy = t - 2 for the four columns (m16n8k16), and of the fifth row the pair t % 2 (m16n8k8).
//  - The rows of the two fragments of A are the even and the odd pixels of 16 neighbouring pairs. Both need the same
//    six columns, three aligned words E; the pairs that begin at an odd column, O, are two halves of those:
//      even pixel: f = 0: E0 E1   f = 1: O0 O1          odd pixel: f = 0: O0 O1   f = 1: E1 E2
//    so that the constants depend on f alone.
//  - The samples are exact in the storage type. A constant is the sum of two of its values, off by 2^-17 at most. The
//    lanes of the fifth row that are left over take its second parts.
//  - The samples reach a warp's own piece of shared memory by asynchronous copies, a few channels ahead. Registers
//    would hold one channel, which does not cover the latency of L2.
#pragma once

#include "epilogue.h"

namespace lkca::cuda {

/// What a thread has of it. T: half_t or bfloat_t; kBlock: threads of a block.
template <class T, int kBlock>
struct BicubicProduct {
  static constexpr int kPairs = 2;   // pairs of pixels of a thread: rows `group` and `group + 8`
  static constexpr int kStages = 4;  // channels of a warp in shared memory: one is read, the others are on their way
  static constexpr int kRow = 160;   // bytes of a row of samples there: the four rows of a warp are in other banks
  static constexpr int kStage = 5 * kRow;
  static constexpr int kAtOnce = 6;  // pieces of each row that a warp copies at once
  static constexpr int kRounds = 5;  // so many times at most
  static constexpr int kNothing = -0x7fffffff;

  struct Constants {
    uint32_t high[2][2], low[2][2], fifth[2];  // of f
  };
  /// A row of samples is in pieces of 16 bytes where LR rows allow, else of 4: those with the warp's 32 pixels, one
  /// before and one after. Where an LR row ends these two are left out of account, and the next LR row has its own: 10
  /// pieces of 16 bytes at most (3 LR rows), or 28 of 4 (6 LR rows).
  struct Shared {
    alignas(16) unsigned char samples[kBlock / 32 * kStages * kStage];
    int from[kRounds * kBlock];  // of each thread's pieces, see place()
  };

  /// Rows of at least three whole words.
  static bool serves(const Shuffle& shuffle, const void* skip) {
    return shuffle.width >= 6 && shuffle.width % 2 == 0 && reinterpret_cast<uintptr_t>(skip) % 4 == 0;
  }
  /// Whether pieces are of 16 bytes.
  static bool in_vectors(const Shuffle& shuffle, const void* skip) {
    return shuffle.width >= 16 && vectors<T>(skip, shuffle.width);
  }

  struct Words {
    uint32_t four[kPairs][3], fifth[kPairs][2];  // of row t - 2; of the fifth row
  };

  Constants constants;
  Shared& shared;
  const T* source;                            // the thread's first piece in the next channel to be copied
  int channels;                               // to be copied
  int rounds;                                 // pieces of the thread
  int target;                                 // of the first of them, in stage 0
  int at[kPairs];                             // the first of the three words of a pair, in stage 0
  int fifth;                                  // from there to the first of its words in the fifth row
  uint32_t ends[kPairs], ends_fifth[kPairs];  // see at_ends()
  int stage;                                  // bytes from stage 0 to the channel at hand

  /// `table`: BicubicTaps of the four phases, there for all threads.
  LKCA_BODY BicubicProduct(int thread, const TableTaps* table, Shared& shared) : shared(shared) {
    const int group = thread % 32 / 4, t = thread % 4;
    const TableTaps down = table[group / 2];
    const auto weight_down = [&](int dy) {
      float weight = 0.0f;
      LKCA_UNROLL
      for (int k = 0; k < 4; ++k) weight = down.first + k == dy ? down.weight[k] : weight;
      return weight;
    };
    const float above = weight_down(t - 2), below = weight_down(2);
    LKCA_UNROLL
    for (int f = 0; f < 2; ++f) {
      const TableTaps& along = table[2 * f + group % 2];
      LKCA_UNROLL
      for (int r = 0; r < 2; ++r) {
        constants.high[f][r] = parts(above * along.weight[2 * r], above * along.weight[2 * r + 1], false);
        constants.low[f][r] = parts(above * along.weight[2 * r], above * along.weight[2 * r + 1], true);
      }
      const float* const pair = along.weight + t % 2 * 2;
      constants.fifth[f] = parts(below * pair[0], below * pair[1], t >= 2);
    }
  }

  /// A pair of constants: their values in T, or what these leave.
  LKCA_BODY static uint32_t parts(float first, float second, bool low) {
    const auto part = [&](float value) -> uint32_t {
      const T high = from_float<T>(value);
      return (low ? from_float<T>(value - to_float(high)) : high).bits;
    };
    return part(first) | part(second) << 16;
  }

  /// The 32 pixels of a warp, from `pixel0` of the tile, of which `first` is the first pixel in the first of `count`
  /// channels. `vec`: in_vectors().
  LKCA_BODY void place(const Shuffle& shuffle, const PixelTile& tile, int thread, int pixel0, const T* first, int count,
                       Bicubic convention, bool vec) {
    const int lane = thread % 32, group = lane / 4, t = lane % 4;
    const int width = static_cast<int>(shuffle.width), height = static_cast<int>(shuffle.height);
    const int bytes = vec ? 16 : 4, shift = vec ? 3 : 1;  // a piece: its bytes; its pixels, as a power of 2
    const int samples = thread / 32 * (kStages * kStage);
    const int down = shuffle.by_width.div(tile.x + pixel0), x0 = tile.x + pixel0 - down * width;
    LKCA_UNROLL
    for (int v = 0; v < kPairs; ++v) {
      const int pair = 8 * v + group, passed = shuffle.by_width.div(x0 + 2 * pair);  // ends of LR rows
      const int x = x0 + 2 * pair - passed * width;
      at[v] = samples + t * kRow + (pair - 1) * 4 + bytes * (1 + 2 * passed);
      ends[v] = at_ends(x == 0, x == width - 2, convention);
      ends_fifth[v] = at_ends(x == 0 && t % 2 == 0, x == width - 2 && t % 2 == 1, convention);
    }
    fifth = (4 - t) * kRow + t % 2 * 4;

    const int pixels = smaller(32, tile.count - pixel0);
    const int length = pixels <= 0 ? 0 : (pixels >> shift) + 2 + 2 * shuffle.by_width.div(x0 + pixels - 1);
    const int mine = smaller(lane, 5 * kAtOnce - 1), row = mine / kAtOnce, piece0 = mine % kAtOnce;
    target = samples + row * kRow + piece0 * bytes;
    rounds = (length + kAtOnce - 1) / kAtOnce;
    channels = length == 0 ? 0 : count;
    compute_here(target);
    compute_here(at[0]);
    compute_here(at[1]);
    source = first;
    LKCA_NO_UNROLL
    for (int round = 0; round < rounds; ++round) {
      const int index = piece0 + round * kAtOnce;
      int piece = smaller(index, length - 1), x = x0, y = static_cast<int>(tile.row) + down;
      LKCA_NO_UNROLL
      for (int end; piece >= (end = ((width - x) >> shift) + 2); piece -= end, x = 0, ++y) {
      }
      x = larger(0, smaller(x + (piece - 1) * (1 << shift), width - (1 << shift)));
      const int from_row = inside(y + row - 2, height, convention) - static_cast<int>(tile.row);
      const int offset = from_row * width - tile.x + x;
      if (round == 0) source += offset;
      shared.from[round * kBlock + thread] =
          index < length && lane == mine ? offset - static_cast<int>(source - first) : kNothing;
    }
  }

  /// Sends the next channel, if there is one, on its way to the stage before `stage`. `between`: to the one after it.
  template <class Grid>
  LKCA_BODY void copy(const Grid& grid, int stage, int64_t between, bool vec) {
    unsigned char* to = shared.samples + target + (stage == 0 ? (kStages - 1) * kStage : stage - kStage);
    if (vec && rounds == 1) {
      grid.template copy<16>(to, source, channels > 0);
    } else if (channels > 0) {
      LKCA_NO_UNROLL
      for (int round = 0; round < rounds; ++round) {
        const int offset = shared.from[round * kBlock + grid.thread()];
        const bool wanted = offset != kNothing;
        if (vec) {
          grid.template copy<16>(to, source + (wanted ? offset : 0), wanted);
        } else {
          grid.template copy<4>(to, source + (wanted ? offset : 0), wanted);
        }
        to += (vec ? 16 : 4) * kAtOnce;
      }
    }
    source += between;
    --channels;
    grid.close_copies();  // a group, even if empty: they are counted
  }

  /// The first channels. The warp has read what it had before.
  template <class Grid>
  LKCA_BODY void begin(const Grid& grid, int64_t between, bool vec) {
    LKCA_NO_UNROLL
    for (stage = kStage; stage < kStages * kStage; stage += kStage) copy(grid, stage, between, vec);
    stage = 0;
  }

  /// Brings the warp together when the channel at hand is there, and sends another on its way.
  template <class Grid>
  LKCA_BODY void next(const Grid& grid, int64_t between, bool vec, Words& words) {
    grid.template await_copies<kStages - 2>();
    grid.sync_warp();  // all lanes' pieces are there, and all have read the channel before
    copy(grid, stage, between, vec);
    grid.sync_warp();  // together again, for mma()
    LKCA_UNROLL
    for (int v = 0; v < kPairs; ++v) {
      const auto* const p = reinterpret_cast<const uint32_t*>(shared.samples + at[v] + stage);
      const auto* const q = reinterpret_cast<const uint32_t*>(shared.samples + at[v] + stage + fifth);
      LKCA_UNROLL
      for (int k = 0; k < 3; ++k) words.four[v][k] = p[k];
      LKCA_UNROLL
      for (int k = 0; k < 2; ++k) words.fifth[v][k] = q[k];
    }
    stage = stage == (kStages - 1) * kStage ? 0 : stage + kStage;
  }

  /// How the pairs before (low half) and after (high half) a pair are made of what was loaded for them and, where an LR
  /// row ends, of the pair itself: selectors of select_bytes().
  LKCA_BODY static uint32_t at_ends(bool first, bool last, Bicubic convention) {
    const bool mirrored = convention == Bicubic::matlab;
    return (first ? (mirrored ? 0x5476u : 0x5454u) : 0x3210u) | (last ? (mirrored ? 0x5476u : 0x7676u) : 0x3210u) << 16;
  }

  /// d[parity of the pixel][f] += the interpolated samples of the channel at hand.
  template <class Grid>
  LKCA_BODY void add(const Grid& grid, Words& words, float (&d)[2][2][4]) {
    auto& e = words.four;
    auto& u = words.fifth;
    LKCA_UNROLL
    for (int v = 0; v < kPairs; ++v) {
      e[v][0] = select_bytes(e[v][0], e[v][1], ends[v]);
      e[v][2] = select_bytes(e[v][2], e[v][1], ends[v] >> 16);
      u[v][0] = select_bytes(u[v][0], u[v][1], ends_fifth[v]);
      u[v][1] = select_bytes(u[v][1], u[v][0], ends_fifth[v] >> 16);
    }
    const auto odd = [](uint32_t a, uint32_t b) { return a >> 16 | b << 16; };
    uint32_t o[kPairs][2], uo[kPairs];
    LKCA_UNROLL
    for (int v = 0; v < kPairs; ++v) {
      LKCA_UNROLL
      for (int k = 0; k < 2; ++k) o[v][k] = odd(e[v][k], e[v][k + 1]);
      uo[v] = odd(u[v][0], u[v][1]);
    }
    const uint32_t four_of[3][4] = {{e[0][0], e[1][0], e[0][1], e[1][1]},
                                    {o[0][0], o[1][0], o[0][1], o[1][1]},
                                    {e[0][1], e[1][1], e[0][2], e[1][2]}};
    const uint32_t fifth_of[3][2] = {{u[0][0], u[1][0]}, {uo[0], uo[1]}, {u[0][1], u[1][1]}};
    const auto each = [&](auto f_of_product) {
      LKCA_UNROLL
      for (int parity = 0; parity < 2; ++parity) {
        LKCA_UNROLL
        for (int f = 0; f < 2; ++f) f_of_product(d[parity][f], parity + f, f);
      }
    };
    each([&](float (&sum)[4], int from, int f) { grid.mma(sum, four_of[from], constants.high[f], T{}); });
    each([&](float (&sum)[4], int from, int f) { grid.mma(sum, four_of[from], constants.low[f], T{}); });
    each([&](float (&sum)[4], int from, int f) { grid.mma(sum, fifth_of[from], constants.fifth[f], T{}); });
  }
};

}  // namespace lkca::cuda
