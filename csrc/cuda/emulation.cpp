#include "emulation.h"

#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "epilogue.h"

namespace lkca::cuda::emulation {
namespace {

constexpr int kLanes = 32;
constexpr size_t kStack = 128 * 1024;
constexpr size_t kGuard = 256;
constexpr unsigned char kGuardByte = 0xa5;

struct Range {
  const unsigned char* begin;
  int64_t bytes;
  bool writable;
  int64_t read = 0, written = 0, vector = 0;
};

struct Barrier {
  int arrived = 0;
  int64_t generation = 0;
};

struct Copy {
  void* to;
  const void* from;
  size_t bytes;
};

struct Fibre {
  ucontext_t context;  // to start it
  jmp_buf place;       // to go on: swapcontext would make a system call each time
  bool started = false, done = false;
  std::vector<std::vector<Copy>> groups = {{}};  // of copies on their way; the last is open
};

struct Lane {  // what a lane shows to its warp
  float value;
  uint32_t word;
  const uint32_t *a, *b;
};

int thread_order = 0;
int64_t max_blocks = 0, only_last = 0, largest_shared = 0, wanted_forward_blocks = 0;
std::vector<Range> ranges;
std::string fault;

jmp_buf scheduler;
std::vector<Fibre> fibres;
std::vector<Lane> lanes;
std::vector<Barrier> warp_barriers;
Barrier block_barrier;
int current = 0;
std::function<void()> entry;

struct Abandon {};  // unwinds a fibre after a fault

void fail(const std::string& message) {
  if (fault.empty()) fault = message;
}

void pause() {
  if (_setjmp(fibres[current].place) == 0) _longjmp(scheduler, 1);
  if (!fault.empty()) throw Abandon{};
}

void wait(Barrier& barrier, int parties) {
  const int64_t generation = barrier.generation;
  if (++barrier.arrived == parties) {
    barrier.arrived = 0;
    ++barrier.generation;
  } else {
    while (barrier.generation == generation) pause();
  }
}

void fibre_main() {
  try {
    entry();
  } catch (const Abandon&) {
  }
  fibres[current].done = true;
  _longjmp(scheduler, 1);
}

void resume(int thread) {
  current = thread;
  if (_setjmp(scheduler) != 0) return;
  Fibre& fibre = fibres[thread];
  if (fibre.started) _longjmp(fibre.place, 1);
  fibre.started = true;
  setcontext(&fibre.context);
}

void run_block(int threads, const std::vector<int>& order) {
  static std::unique_ptr<unsigned char[]> stacks;
  static size_t stack_count = 0;
  if (stack_count < static_cast<size_t>(threads)) {
    stacks.reset(new unsigned char[kStack * threads]);
    stack_count = threads;
  }
  fibres.assign(threads, Fibre());
  lanes.assign(threads, Lane());
  warp_barriers.assign((threads + kLanes - 1) / kLanes, Barrier());
  block_barrier = Barrier();
  for (int t = 0; t < threads; ++t) {
    getcontext(&fibres[t].context);
    fibres[t].context.uc_stack.ss_sp = stacks.get() + kStack * t;
    fibres[t].context.uc_stack.ss_size = kStack;
    fibres[t].context.uc_link = nullptr;
    makecontext(&fibres[t].context, fibre_main, 0);
  }
  // A thread runs until it waits. A round in which no barrier opened and none ended is a deadlock:
  // some thread left, or waits at another barrier than the rest.
  for (int left = threads; left > 0;) {
    int64_t before = block_barrier.generation + left;
    for (const Barrier& barrier : warp_barriers) before += barrier.generation;
    int64_t ended = 0;
    const auto run_warp = [&](int warp) {  // or, -1, every thread
      for (int t : order) {
        if (fibres[t].done || (warp >= 0 && t / kLanes != warp)) continue;
        resume(t);
        if (fibres[t].done) {
          --left;
          ++ended;
        }
      }
    };
    if (thread_order > 1 && thread_order % 2 == 0) {
      for (int t : order) {
        if (t % kLanes != 0) continue;
        for (int64_t opened = -1; opened != warp_barriers[t / kLanes].generation;) {
          opened = warp_barriers[t / kLanes].generation;
          run_warp(t / kLanes);
        }
      }
    } else {
      run_warp(-1);
    }
    int64_t after = block_barrier.generation + left + 2 * ended;
    for (const Barrier& barrier : warp_barriers) after += barrier.generation;
    if (after == before && left > 0) fail("threads of a block wait at different barriers");
  }
  if (block_barrier.arrived != 0) fail("a barrier was not reached by every thread");
}

Range* find(const void* p, size_t bytes, bool write) {
  const auto* address = static_cast<const unsigned char*>(p);
  for (Range& range : ranges) {
    if (address >= range.begin && address + bytes <= range.begin + range.bytes && (range.writable || !write)) {
      return &range;
    }
  }
  return nullptr;
}

void check(const void* p, size_t bytes, bool write) {
  const std::string what = write ? "write" : "read";
  if (reinterpret_cast<uintptr_t>(p) % bytes != 0) {
    fail("misaligned " + what + " of " + std::to_string(bytes) + " bytes");
  }
  Range* range = find(p, bytes, write);
  if (range == nullptr) {
    fail(what + " of " + std::to_string(bytes) + " bytes outside the tensors of the call");
    throw Abandon{};  // the access itself must not happen
  }
  (write ? range->written : range->read) += static_cast<int64_t>(bytes);
  if (write && bytes == 16) range->vector += 16;
}

const Range* nth(int i, bool writable) {
  for (const Range& range : ranges) {
    if (range.writable == writable && i-- == 0) return &range;
  }
  return nullptr;
}

// PTX ISA, "Matrix fragments for mma.m16n8k16 with floating point type": group = lane / 4, t = lane % 4.
//   A register 0: row group,     k 2t, 2t+1      register 1: row group + 8, same k
//   register 2: row group,       k 2t+8, 2t+9    register 3: row group + 8, same k
//   B register 0: k 2t, 2t+1     register 1: k 2t+8, 2t+9      both: column group
//   D 0, 1: row group, columns 2t, 2t+1          D 2, 3: row group + 8, same columns
// m16n8k8: A registers 0 and 1, B register 0.
template <class T, int K>
void mma_from_tables(float (&d)[4], const uint32_t* a_mine, const uint32_t* b_mine) {
  const int warp = current / kLanes, lane = current % kLanes, first = warp * kLanes;
  lanes[current].a = a_mine;
  lanes[current].b = b_mine;
  wait(warp_barriers[warp], kLanes);
  const auto element = [](uint32_t word, int k) {
    return to_float(T{static_cast<uint16_t>(k % 2 == 0 ? word & 0xffffu : word >> 16)});
  };
  float sum[4];
  for (int e = 0; e < 4; ++e) {
    const int row = lane / 4 + (e >= 2 ? 8 : 0), column = 2 * (lane % 4) + e % 2;
    float total = 0.0f;
    for (int k = 0; k < K; ++k) {
      const Lane& a = lanes[first + (row % 8) * 4 + (k % 8) / 2];
      const Lane& b = lanes[first + column * 4 + (k % 8) / 2];
      total += element(a.a[(row >= 8 ? 1 : 0) + (k >= 8 ? 2 : 0)], k) * element(b.b[k >= 8 ? 1 : 0], k);
    }
    sum[e] = d[e] + total;
  }
  wait(warp_barriers[warp], kLanes);
  for (int e = 0; e < 4; ++e) d[e] = sum[e];
}

}  // namespace

int HostGrid::thread() const { return current; }

void HostGrid::sync() const { wait(block_barrier, static_cast<int>(fibres.size())); }

void HostGrid::sync_warp() const { wait(warp_barriers[current / kLanes], kLanes); }

uint32_t HostGrid::shuffle(uint32_t value, int from) const {
  const int warp = current / kLanes;
  lanes[current].word = value;
  wait(warp_barriers[warp], kLanes);
  const uint32_t other = lanes[warp * kLanes + from].word;
  wait(warp_barriers[warp], kLanes);
  return other;
}

float HostGrid::warp_sum(float value) const {
  const int warp = current / kLanes, first = warp * kLanes, lane = current % kLanes;
  for (int mask = 16; mask > 0; mask >>= 1) {
    lanes[current].value = value;
    wait(warp_barriers[warp], kLanes);
    const float other = lanes[first + (lane ^ mask)].value;
    wait(warp_barriers[warp], kLanes);
    value += other;
  }
  return value;
}

void HostGrid::start_copy(void* to, const void* from, size_t bytes) const {
  on_read(from, bytes);
  if (reinterpret_cast<uintptr_t>(to) % bytes != 0) fail("misaligned copy of " + std::to_string(bytes) + " bytes");
  std::memset(to, 0xff, bytes);
  fibres[current].groups.back().push_back({to, from, bytes});
}

void HostGrid::close_copies() const { fibres[current].groups.emplace_back(); }

void HostGrid::finish_copies(size_t pending) const {
  auto& groups = fibres[current].groups;
  while (groups.size() > pending + 1) {  // the open group is not waited for
    for (const Copy& copy : groups.front()) std::memcpy(copy.to, copy.from, copy.bytes);
    groups.erase(groups.begin());
  }
}

void HostGrid::mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], half_t) const {
  mma_from_tables<half_t, 16>(d, a, b);
}

void HostGrid::mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], bfloat_t) const {
  mma_from_tables<bfloat_t, 16>(d, a, b);
}

void HostGrid::mma(float (&d)[4], const uint32_t (&a)[2], uint32_t b, half_t) const {
  mma_from_tables<half_t, 8>(d, a, &b);
}

void HostGrid::mma(float (&d)[4], const uint32_t (&a)[2], uint32_t b, bfloat_t) const {
  mma_from_tables<bfloat_t, 8>(d, a, &b);
}

const char* run_grid(int64_t blocks, int threads, int64_t shared_bytes, const Body& body) {
  largest_shared = std::max(largest_shared, shared_bytes);
  if (max_blocks > 0) blocks = std::min(blocks, max_blocks);
  std::vector<int> order(threads);
  std::iota(order.begin(), order.end(), 0);
  if (thread_order == 1) std::reverse(order.begin(), order.end());
  if (thread_order > 1) std::shuffle(order.begin(), order.end(), std::mt19937(thread_order));

  const size_t room = static_cast<size_t>(shared_bytes) + kGuard;
  std::unique_ptr<Vec16[]> memory(new Vec16[room / 16 + 1]);
  auto* shared = reinterpret_cast<unsigned char*>(memory.get());
  fault.clear();
  const int64_t first = only_last > 0 ? std::max<int64_t>(0, blocks - only_last) : 0;
  for (int64_t block = first; block < blocks && fault.empty(); ++block) {
    std::memset(shared, 0xff, shared_bytes);  // NaN in all three types
    std::memset(shared + shared_bytes, kGuardByte, kGuard);
    const HostGrid grid{block, blocks};
    entry = [&] { body(grid, shared); };
    run_block(threads, order);
    for (size_t i = 0; i < kGuard; ++i) {
      if (shared[shared_bytes + i] != kGuardByte) fail("shared memory written past its end");
    }
  }
  return fault.empty() ? nullptr : fault.c_str();
}

void on_read(const void* p, size_t bytes) { check(p, bytes, false); }
void on_write(const void* p, size_t bytes) { check(p, bytes, true); }

int64_t forward_blocks(int64_t usual) { return wanted_forward_blocks > 0 ? wanted_forward_blocks : usual; }

void begin_call() {
  ranges.clear();
  largest_shared = 0;
}
void add_range(const void* p, int64_t bytes, bool writable) {
  if (p != nullptr) ranges.push_back({static_cast<const unsigned char*>(p), bytes, writable});
}

}  // namespace lkca::cuda::emulation

using namespace lkca::cuda::emulation;

extern "C" {
void lkca_emulation_thread_order(int order) { thread_order = order; }
void lkca_emulation_max_blocks(int64_t blocks) { max_blocks = blocks; }
void lkca_emulation_forward_blocks(int64_t blocks) { wanted_forward_blocks = blocks; }
void lkca_emulation_only_last(int64_t blocks) { only_last = blocks; }
int64_t lkca_emulation_bytes_written(int i) { return nth(i, true) == nullptr ? -1 : nth(i, true)->written; }
int64_t lkca_emulation_bytes_read(int i) { return nth(i, false) == nullptr ? -1 : nth(i, false)->read; }
int64_t lkca_emulation_vector_bytes(int i) { return nth(i, true) == nullptr ? -1 : nth(i, true)->vector; }

float lkca_emulation_round(int dtype, float value) {
  using namespace lkca::cuda;
  if (dtype == 1) return to_float(from_float<half_t>(value));
  if (dtype == 2) return to_float(from_float<bfloat_t>(value));
  return value;
}
int lkca_emulation_inside(int i, int n, int convention) {
  return lkca::cuda::inside(i, n, static_cast<lkca::Bicubic>(convention));
}
int lkca_emulation_border(int i, int n, int convention) {
  return static_cast<int>(lkca::bicubic_border(i, n, static_cast<lkca::Bicubic>(convention)));
}
int64_t lkca_emulation_shared_bytes() { return largest_shared; }
int64_t lkca_emulation_even_splits(int64_t tiles, int64_t chunks, int64_t processors, int64_t at_once) {
  return lkca::cuda::even_splits(tiles, chunks, processors, at_once);
}
int lkca_emulation_divide(int divisor, int n) { return lkca::cuda::FastDiv(divisor).div(n); }
}
