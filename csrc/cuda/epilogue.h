// How every forward kernel ends: out = gate * value + skip along the HR rows.
#pragma once

#include "../common/bicubic.h"
#include "dispatch.h"
#include "tile.h"

namespace lkca::cuda {

/// Sample of an LR line at position i, which may lie outside.
LKCA_BODY int64_t inside(int64_t i, int64_t n, Bicubic convention) {
  return i >= 0 && i < n ? i : bicubic_border(i, n, convention);
}

/// V neighbours of one HR row of the bicubic upsampling of an LR plane. The four LR rows are combined first, once
/// for each LR column; the columns then slide along the row.
template <class T>
struct BicubicRow {
  const T* rows[4];
  float weight[4];
  int64_t width;
  Bicubic convention;

  LKCA_BODY BicubicRow(const Shuffle& shuffle, const T* plane, int64_t row, const BicubicTaps& taps, Bicubic convention)
      : width(shuffle.width), convention(convention) {
    LKCA_UNROLL
    for (int k = 0; k < 4; ++k) {
      rows[k] = plane + inside(row + taps.first + k, shuffle.height, convention) * shuffle.width;
      weight[k] = taps.weight[k];
    }
  }

  LKCA_BODY float column(int64_t x) const {
    const int64_t at = inside(x, width, convention);
    float sum = 0.0f;
    LKCA_UNROLL
    for (int k = 0; k < 4; ++k) sum += weight[k] * to_float(load(rows[k] + at));
    return sum;
  }

  template <int V>
  LKCA_BODY void values(const Shuffle& shuffle, int hr_column, const BicubicTaps* table, float (&value)[V]) const {
    int x = shuffle.by_scale.div(hr_column), phase = hr_column - x * shuffle.scale;
    int first = x + table[phase].first;
    float window[4];
    LKCA_UNROLL
    for (int k = 0; k < 4; ++k) window[k] = column(first + k);
    LKCA_UNROLL
    for (int e = 0; e < V; ++e) {
      const BicubicTaps& taps = table[phase];
      if (x + taps.first != first) {
        ++first;
        LKCA_UNROLL
        for (int k = 0; k < 3; ++k) window[k] = window[k + 1];
        window[3] = column(first + 3);
      }
      value[e] = taps.weight[0] * window[0] + taps.weight[1] * window[1] + taps.weight[2] * window[2] +
                 taps.weight[3] * window[3];
      if (++phase == shuffle.scale) phase = 0, ++x;
    }
  }
};

LKCA_HD int bicubic_table_bytes(const Shuffle& shuffle) {
  return static_cast<int>(ceil_div(shuffle.scale * static_cast<int64_t>(sizeof(BicubicTaps)), 16) * 16);
}

/// The taps of every phase, for all threads of the block after the next barrier.
template <class Grid>
LKCA_BODY void fill_bicubic_table(const Grid& grid, const Shuffle& shuffle, Bicubic convention, BicubicTaps* table) {
  for (int phase = grid.thread(); phase < shuffle.scale; phase += kThreads) {
    table[phase] = bicubic_taps(phase, shuffle.scale, convention);
  }
}

/// kLowRes: the skip is the LR cube; a kernel of its own, since the interpolation takes many registers.
template <class T, bool kLowRes>
struct Epilogue {
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

  LKCA_HD static int table_bytes(const Shuffle& shuffle) { return kLowRes ? bicubic_table_bytes(shuffle) : 0; }
  template <class Grid>
  LKCA_BODY void fill_table(const Grid& grid, const Shuffle& shuffle, BicubicTaps* table) const {
    if constexpr (kLowRes) fill_bicubic_table(grid, shuffle, bicubic, table);
  }

  /// source(u in tile, first q, float (&)[V]) gives the values before the gate.
  template <class Grid, class F>
  LKCA_BODY void write(const Grid& grid, const Shuffle& shuffle, const PixelTile& tile, int64_t batch, int64_t u0,
                       int u_count, const BicubicTaps* table, F source) const {
    if (vec) {
      write_vectors<kVec<T>>(grid, shuffle, tile, batch, u0, u_count, table, source);
    } else {
      write_vectors<1>(grid, shuffle, tile, batch, u0, u_count, table, source);
    }
  }

 private:
  template <int V, class Grid, class F>
  LKCA_BODY void write_vectors(const Grid& grid, const Shuffle& shuffle, const PixelTile& tile, int64_t batch,
                               int64_t u0, int u_count, const BicubicTaps* table, F source) const {
    for_each_element<V>(grid, shuffle, tile, u_count, [&](int u, int q) {
      const URow row(shuffle, batch, static_cast<int>(u0) + u);
      const Element element(shuffle, tile, row, q);
      const int64_t plane = batch * shuffle.channels + row.channel;
      float value[V], added[V];
      if constexpr (kLowRes) {
        const BicubicRow<T> from(shuffle, skip + plane * shuffle.pixels, element.row, table[row.sub], bicubic);
        from.values(shuffle, element.column, table, added);
      } else if (skip != nullptr) {
        load_elements(skip + element.offset, added);
      } else {
        LKCA_UNROLL
        for (int e = 0; e < V; ++e) added[e] = 0.0f;
      }
      source(u, q, value);
      const float factor = gate == nullptr ? 1.0f : to_float(load(gate + plane));
      LKCA_UNROLL
      for (int e = 0; e < V; ++e) value[e] = factor * value[e] + added[e];
      store_elements(out + element.offset, value);
    });
  }
};

}  // namespace lkca::cuda
