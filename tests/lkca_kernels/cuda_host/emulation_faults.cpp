// Kernels with one fault each: what the emulated grid must notice before its silence means anything.
#include <cstdint>

#include "cuda/grid.h"

namespace {

using namespace lkca::cuda;

struct FaultArgs {
  float* out;
  int64_t count;
};

template <int kFault>
struct Faulty {
  using Args = FaultArgs;
  static constexpr int threads = 64, min_blocks = 1;
  static int64_t blocks(const Args&) { return 1; }
  static int64_t shared_bytes(const Args&) { return threads * sizeof(float); }

  template <class Grid>
  static void run(const Grid& grid, const Args& args, unsigned char* shared) {
    auto* const values = reinterpret_cast<float*>(shared);
    const int t = grid.thread();
    values[t] = static_cast<float>(t);
    if (kFault >= 6) {
      grid.template copy<4>(values + t, args.out + t);
      grid.close_copies();
      if (kFault == 7) grid.template await_copies<0>();  // 7: no fault
    }
    if (kFault == 5) values[threads + t] = 0.0f;  // past the end of shared memory
    if (kFault == 4 && t == 7) return;            // leaves before the barrier
    if (kFault != 1) grid.sync();                 // 1: the barrier is missing
    const float neighbour = values[(t + 1) % threads];
    if (kFault == 2) {
      store(args.out + t + (t == 63 ? args.count : 0), neighbour);  // past the end of the tensor
    } else if (kFault == 3) {
      store16(args.out + t % 2, Vec16{});  // a misaligned vector
    } else {
      store(args.out + t, neighbour);
    }
  }
};

}  // namespace

extern "C" const char* lkca_emulation_fault(int fault, float* out, int64_t count) {
  emulation::begin_call();
  emulation::add_range(out, count * 4, true);
  const FaultArgs args{out, count};
  switch (fault) {
    case 1:
      return launch<Faulty<1>>(args, nullptr);
    case 2:
      return launch<Faulty<2>>(args, nullptr);
    case 3:
      return launch<Faulty<3>>(args, nullptr);
    case 4:
      return launch<Faulty<4>>(args, nullptr);
    case 5:
      return launch<Faulty<5>>(args, nullptr);
    case 6:  // a copy that is not awaited
      return launch<Faulty<6>>(args, nullptr);
    case 7:
      return launch<Faulty<7>>(args, nullptr);
    default:
      return launch<Faulty<0>>(args, nullptr);
  }
}
