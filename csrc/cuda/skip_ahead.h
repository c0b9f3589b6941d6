// A high-resolution skip, fetched some u rows ahead: asynchronous copies into shared memory, of each thread's vectors to a
// place of its own, so that it waits for nothing but its own copies. Registers would hold one step, and the compiler waits
// for a load whose result is kept for later.
#pragma once

#include "platform.h"
#include "tile.h"

namespace lkca::cuda {

/// What a thread has of it: kVectors vectors of a u row in each step, kStages - 1 steps ahead.
template <class T, int kVectors, int kStages>
struct SkipAhead {
  struct Shared {
    Vec16 vectors[kStages][kVectors][kThreads];
  };

  const T* source = nullptr;  // the u row to be copied next
  int steps = 0;              // to be copied
  int stage = 0;              // of the step at hand

  /// `first`: the u row of the first of `count` steps. `offset`, `within`: in a u row, the vectors and whether there are
  /// such. `between`: from one step to the next.
  template <class Grid, class Within>
  LKCA_BODY void begin(const Grid& grid, Shared& shared, const T* first, int count, int64_t between,
                       const int (&offset)[kVectors], Within within) {
    source = first, steps = count;
    LKCA_NO_UNROLL
    for (stage = 1; stage < kStages; ++stage) next(grid, shared, between, offset, within);
    stage = 0;
  }

  /// Sends another step on its way, to the stage before the one at hand.
  template <class Grid, class Within>
  LKCA_BODY void next(const Grid& grid, Shared& shared, int64_t between, const int (&offset)[kVectors], Within within) {
    if (steps > 0) {
      Vec16* const to = &shared.vectors[stage == 0 ? kStages - 1 : stage - 1][0][grid.thread()];
      LKCA_UNROLL
      for (int v = 0; v < kVectors; ++v) {
        if (within(v)) grid.copy_once(to + v * kThreads, reinterpret_cast<const Vec16*>(source) + offset[v]);
      }
      source += between;
      --steps;
    }
    grid.close_copies();  // a group, even if empty: they are counted
  }

  /// Waits for the step at hand, after next().
  template <class Grid>
  LKCA_BODY void await(const Grid& grid) const {
    grid.template await_copies<kStages - 1>();
  }
  template <class Grid>
  LKCA_BODY Vec16 take(const Grid& grid, const Shared& shared, int v) const {
    return shared.vectors[stage][v][grid.thread()];
  }
  LKCA_BODY void advance() { stage = stage == kStages - 1 ? 0 : stage + 1; }
};

}  // namespace lkca::cuda
