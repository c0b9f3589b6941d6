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
#pragma once

#include "epilogue.h"

namespace lkca::cuda {

/// What a thread has of it. T: half_t or bfloat_t.
template <class T>
struct BicubicProduct {
  static constexpr int kPairs = 2;  // pairs of pixels of a thread: rows `group` and `group + 8`

  /// Rows of at least three whole words.
  static bool serves(const Shuffle& shuffle, const void* skip) {
    return shuffle.width >= 6 && shuffle.width % 2 == 0 && reinterpret_cast<uintptr_t>(skip) % 4 == 0;
  }

  struct Constants {
    uint32_t high[2], low[2], fifth;
  };
  Constants constants[2];           // of f
  int four[kPairs], fifth[kPairs];  // where the words begin, from the first pixel of the tile
  int ends;                         // bits 2v, 2v + 1: the pair is the first, the last of an LR row
  const T* plane;                   // of the next channel: the first pixel of the tile
  int64_t step;                     // from one channel to the next
  int channels;                     // to come
  uint32_t word[kPairs][3];         // of row t - 2
  uint32_t word_fifth[kPairs][2];

  /// `table`: BicubicTaps of the four phases.
  LKCA_BODY BicubicProduct(int thread, const TableTaps* table) {
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
        constants[f].high[r] = parts(above * along.weight[2 * r], above * along.weight[2 * r + 1], false);
        constants[f].low[r] = parts(above * along.weight[2 * r], above * along.weight[2 * r + 1], true);
      }
      const float* const pair = along.weight + t % 2 * 2;
      constants[f].fifth = parts(below * pair[0], below * pair[1], t >= 2);
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

  /// The pair of row `8 * v + group`: its first pixel in the tile.
  LKCA_BODY void place(const Shuffle& shuffle, const PixelTile& tile, int t, int v, int pixel, Bicubic convention) {
    const int width = static_cast<int>(shuffle.width), height = static_cast<int>(shuffle.height);
    const int along = tile.x + smaller(pixel, tile.count - 2);
    const int down = shuffle.by_width.div(along), x = along - down * width, y = static_cast<int>(tile.row) + down;
    const auto begin = [&](int dy, int first, int words) {
      const int row = inside(y + dy, height, convention) - static_cast<int>(tile.row);
      return row * width - tile.x + larger(0, smaller(x + first, width - 2 * words));
    };
    four[v] = begin(t - 2, -2, 3);
    fifth[v] = begin(2, t % 2 * 2 - 2, 2);
    ends = (v == 0 ? 0 : ends) | (x == 0) << 2 * v | (x == width - 2) << (2 * v + 1);
  }

  /// `first`: the tile's first pixel in the first channel, `between`: from there to the next of `count`.
  LKCA_BODY void begin(const T* first, int64_t between, int count) {
    plane = first, step = between, channels = count;
    load_words();
  }

  /// The samples of the next channel, on their way while the last one is written.
  LKCA_BODY void load_words() {
    if (--channels < 0) return;
    const T* const first = plane;
    plane += step;
    LKCA_UNROLL
    for (int v = 0; v < kPairs; ++v) {
      int from = four[v], from_fifth = fifth[v];
      compute_here(from);  // else 64-bit offsets are held
      compute_here(from_fifth);
      const auto* const p = reinterpret_cast<const uint32_t*>(first + from);
      const auto* const q = reinterpret_cast<const uint32_t*>(first + from_fifth);
      LKCA_UNROLL
      for (int k = 0; k < 3; ++k) word[v][k] = load(p + k);
      LKCA_UNROLL
      for (int k = 0; k < 2; ++k) word_fifth[v][k] = load(q + k);
    }
  }

  /// The pair of samples beyond the end of an LR row, from the last pair within.
  LKCA_BODY static uint32_t beyond(uint32_t pair, bool left, Bicubic convention) {
    if (convention == Bicubic::matlab) return pair >> 16 | pair << 16;
    return left ? (pair & 0xffffu) | pair << 16 : (pair & 0xffff0000u) | pair >> 16;
  }

  /// At the ends of an LR row the words that were loaded are not the ones around the pair, but the nearest within.
  LKCA_BODY void mend(int t, Bicubic convention) {
    LKCA_UNROLL
    for (int v = 0; v < kPairs; ++v) {
      uint32_t (&w)[3] = word[v], (&u)[2] = word_fifth[v];
      if (ends >> 2 * v & 1) {
        w[2] = w[1], w[1] = w[0], w[0] = beyond(w[1], true, convention);
        if (t % 2 == 0) u[1] = u[0], u[0] = beyond(u[1], true, convention);
      }
      if (ends >> 2 * v & 2) {
        w[0] = w[1], w[1] = w[2], w[2] = beyond(w[1], false, convention);
        if (t % 2 == 1) u[0] = u[1], u[1] = beyond(u[0], false, convention);
      }
    }
  }

  /// d[parity of the pixel][f] += the interpolated samples.
  template <class Grid>
  LKCA_BODY void add(const Grid& grid, int t, Bicubic convention, float (&d)[2][2][4]) {
    if (ends != 0) mend(t, convention);
    grid.sync_warp();
    const auto odd = [](uint32_t a, uint32_t b) { return a >> 16 | b << 16; };
    const auto& e = word;
    const auto& u = word_fifth;
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
        for (int f = 0; f < 2; ++f) f_of_product(d[parity][f], parity + f, constants[f]);
      }
    };
    each([&](float (&sum)[4], int from, const Constants& c) { grid.mma(sum, four_of[from], c.high, T{}); });
    each([&](float (&sum)[4], int from, const Constants& c) { grid.mma(sum, four_of[from], c.low, T{}); });
    each([&](float (&sum)[4], int from, const Constants& c) { grid.mma(sum, fifth_of[from], c.fifth, T{}); });
    load_words();
  }
};

}  // namespace lkca::cuda
