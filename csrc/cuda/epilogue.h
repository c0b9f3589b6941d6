// How every forward kernel ends: out = gate * value + skip along the HR rows.
#pragma once

#include "../common/bicubic.h"
#include "dispatch.h"
#include "tile.h"

namespace lkca::cuda {

/// bicubic_border for -2 <= i <= n + 1, which is all that taps reach, without its loop and in 32 bits.
LKCA_HD int inside(int i, int n, Bicubic convention) {
  if (convention == Bicubic::torch) return larger(0, smaller(i, n - 1));
  LKCA_UNROLL
  for (int fold = 0; fold < 2; ++fold) {  // the second for a line of one sample
    i = i < 0 ? -1 - i : i;
    i = i >= n ? 2 * n - 1 - i : i;
  }
  return i < 0 ? -1 - i : i;
}

/// BicubicTaps of every phase in shared memory, for all threads of the block after the next barrier.
struct alignas(16) TableTaps {
  float weight[4];
  int first, unused[3];
};

LKCA_HD int bicubic_table_bytes(const Shuffle& shuffle) { return shuffle.scale * static_cast<int>(sizeof(TableTaps)); }

template <class Grid>
LKCA_BODY void fill_bicubic_table(const Grid& grid, const Shuffle& shuffle, Bicubic convention, TableTaps* table) {
  for (int phase = grid.thread(); phase < shuffle.scale; phase += kThreads) {
    const BicubicTaps taps = bicubic_taps(phase, shuffle.scale, convention);
    table[phase].first = taps.first;
    LKCA_UNROLL
    for (int k = 0; k < 4; ++k) table[phase].weight[k] = taps.weight[k];
  }
}

/// The end of a forward kernel. Per tile: prepare() and write(), with a barrier before each.
/// kLowRes: the skip is the LR cube. prepare() then interpolates down the columns, once for each LR pixel of each u
/// row and its two neighbours on either side; write() goes along the rows.
template <class T, bool kLowRes>
struct Epilogue {
  static constexpr int kReach = 2, kLine = kTilePixels + 2 * kReach;

  const T *gate = nullptr, *skip = nullptr;
  T* out = nullptr;
  Bicubic bicubic = Bicubic::matlab;
  bool vec = false;

  Epilogue() = default;
  Epilogue(const Shuffle& shuffle, const void* gate, const void* skip, Bicubic bicubic, void* out)
      : gate(static_cast<const T*>(gate)),
        skip(static_cast<const T*>(skip)),
        out(static_cast<T*>(out)),
        bicubic(bicubic),
        vec(vectors<T>(out, shuffle.width_hr) && (kLowRes || vectors<T>(skip, shuffle.width_hr))) {}

  struct alignas(16) Row {
    int64_t offset;  // of the u row in the HR cube
    float gate;
    int unused;
  };
  struct Room {
    Row* rows;
    TableTaps* table;
    float* lines;

    LKCA_BODY Room(const Shuffle& shuffle, unsigned char* shared)
        : rows(reinterpret_cast<Row*>(shared)),
          table(reinterpret_cast<TableTaps*>(rows + shuffle.tile_u)),
          lines(reinterpret_cast<float*>(table + shuffle.scale)) {}
  };
  static int room_bytes(const Shuffle& shuffle) {
    const int rows = shuffle.tile_u * static_cast<int>(sizeof(Row));
    return rows +
           (kLowRes ? bicubic_table_bytes(shuffle) + shuffle.tile_u * kLine * static_cast<int>(sizeof(float)) : 0);
  }

  /// Once for each block, a barrier before the first prepare().
  template <class Grid>
  LKCA_BODY void start(const Grid& grid, const Shuffle& shuffle, const Room& room) const {
    if constexpr (kLowRes) fill_bicubic_table(grid, shuffle, bicubic, room.table);
  }

  template <class Grid>
  LKCA_BODY void prepare(const Grid& grid, const Shuffle& shuffle, const PixelTile& tile, int64_t batch, int64_t u0,
                         int u_count, const Room& room) const {
    if (grid.thread() < u_count) {
      const URow row(shuffle, batch, static_cast<int>(u0) + grid.thread());
      const float factor = gate == nullptr ? 1.0f : to_float(load(gate + row.plane));
      room.rows[grid.thread()] = Row{row.offset, factor, 0};
    }
    if constexpr (kLowRes) {
      for (int u = grid.thread() / 32; u < u_count; u += kWarps) {
        const URow row(shuffle, batch, static_cast<int>(u0) + u);
        const T* const plane = skip + row.plane * shuffle.pixels;
        const TableTaps& taps = room.table[row.sub];
        for (int i = grid.thread() % 32; i < tile.count + 2 * kReach; i += 32) {
          const int64_t pixel = tile.first + i - kReach;
          if (pixel < 0 || pixel >= shuffle.pixels) continue;
          const int two_rows = 2 * static_cast<int>(shuffle.width);  // two rows up, so that nothing is negative
          const int y = static_cast<int>(tile.row) - 2 + shuffle.by_width.div(tile.x + i - kReach + two_rows);
          float sum = 0.0f;
          LKCA_UNROLL
          for (int k = 0; k < 4; ++k) {
            const int from = inside(y + taps.first + k, static_cast<int>(shuffle.height), bicubic);
            sum += taps.weight[k] * to_float(load(plane + pixel + (from - y) * shuffle.width));
          }
          room.lines[u * kLine + i] = sum;
        }
      }
    }
  }

  /// source(u in tile, first q, float (&)[V]) gives the values before the gate.
  template <class Grid, class F>
  LKCA_BODY void write(const Grid& grid, const Shuffle& shuffle, const PixelTile& tile, int u_count, const Room& room,
                       F source) const {
    if (vec) {
      write_vectors<kVec<T>>(grid, shuffle, tile, u_count, room, source);
    } else {
      write_vectors<1>(grid, shuffle, tile, u_count, room, source);
    }
  }

 private:
  template <int V, class Grid, class F>
  LKCA_BODY void write_vectors(const Grid& grid, const Shuffle& shuffle, const PixelTile& tile, int u_count,
                               const Room& room, F source) const {
    // Two u rows at a time: both reads of the skip are under way before the first is needed.
    for_each_element<V, 2>(grid, shuffle, tile, u_count, [&](const int (&u)[2], const Element& element) {
      float added[2][V], value[V];
      LKCA_UNROLL
      for (int i = 0; i < 2; ++i) {
        LKCA_UNROLL
        for (int e = 0; e < V; ++e) added[i][e] = 0.0f;
        if (u[i] >= u_count) continue;
        if constexpr (kLowRes) {
          along_row(shuffle, element, room.table, room.lines + u[i] * kLine + kReach, added[i]);
        } else if (skip != nullptr) {
          load_elements(skip + room.rows[u[i]].offset + element.offset, added[i]);
        }
      }
      LKCA_UNROLL
      for (int i = 0; i < 2; ++i) {
        if (u[i] >= u_count) continue;
        const Row row = room.rows[u[i]];
        source(u[i], element.q, value);
        LKCA_UNROLL
        for (int e = 0; e < V; ++e) value[e] = row.gate * value[e] + added[i][e];
        store_elements(out + row.offset + element.offset, value);
      }
    });
  }

  /// `line`: the interpolated columns of the tile's pixels, from -kReach on. What the border rule puts in place of a
  /// column outside is never farther than kReach from the pixel, and in the same LR row.
  template <int V>
  LKCA_BODY void along_row(const Shuffle& shuffle, const Element& element, const TableTaps* table, const float* line,
                           float (&value)[V]) const {
    int x = shuffle.by_scale.div(element.column), phase = element.column - x * shuffle.scale;
    const int shift = shuffle.by_scale.div(element.q) - x;  // from LR column to pixel of the tile
    const int width = static_cast<int>(shuffle.width);
    const auto sample = [&](int column) { return line[inside(column, width, bicubic) + shift]; };
    int first = x + table[phase].first;
    float window[4];
    LKCA_UNROLL
    for (int k = 0; k < 4; ++k) window[k] = sample(first + k);
    LKCA_UNROLL
    for (int e = 0; e < V; ++e) {
      const TableTaps taps = table[phase];
      if (x + taps.first != first) {
        ++first;
        LKCA_UNROLL
        for (int k = 0; k < 3; ++k) window[k] = window[k + 1];
        window[3] = sample(first + 3);
      }
      value[e] = taps.weight[0] * window[0] + taps.weight[1] * window[1] + taps.weight[2] * window[2] +
                 taps.weight[3] * window[3];
      if (++phase == shuffle.scale) phase = 0, ++x;
    }
  }
};

}  // namespace lkca::cuda
