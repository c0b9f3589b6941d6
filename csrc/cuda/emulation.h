// A grid on the host, for tests of the kernels without a card: each thread of a block is a fibre, barriers
// and warp operations switch between them. Never part of a library that users get.
//  - run in several thread orders, a missing barrier changes the result;
//  - shared memory is poisoned with NaN before each block and has guard bytes behind it;
//  - device memory is what the call registered: any other address, or a misaligned vector, is an error;
//  - what an asynchronous copy writes is NaN until its thread has waited for it;
//  - bytes read and written are counted per registered range.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>

namespace lkca::cuda {
struct half_t;
struct bfloat_t;
}  // namespace lkca::cuda

namespace lkca::cuda::emulation {

struct HostGrid {
  int64_t block_index, block_count;

  int thread() const;
  int64_t block() const { return block_index; }
  int64_t blocks() const { return block_count; }
  void sync() const;
  void sync_warp() const;
  uint32_t shuffle(uint32_t value, int from) const;
  float warp_sum(float value) const;
  template <int Bytes>
  void copy(void* to, const void* from, bool wanted = true) const {
    if (wanted) start_copy(to, from, Bytes);
  }
  void close_copies() const;
  template <int Pending>
  void await_copies() const {
    finish_copies(Pending);
  }
  void start_copy(void* to, const void* from, size_t bytes) const;
  void finish_copies(size_t pending) const;
  void mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], half_t) const;
  void mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], bfloat_t) const;
  void mma(float (&d)[4], const uint32_t (&a)[2], uint32_t b, half_t) const;
  void mma(float (&d)[4], const uint32_t (&a)[2], uint32_t b, bfloat_t) const;
};

using Body = std::function<void(const HostGrid&, unsigned char*)>;

/// Runs every block; the first fault as text, or nullptr.
const char* run_grid(int64_t blocks, int threads, int64_t shared_bytes, const Body& body);

void on_read(const void* p, size_t bytes);
void on_write(const void* p, size_t bytes);

/// `usual`, or what a test asked for with lkca_emulation_forward_blocks.
int64_t forward_blocks(int64_t usual);

/// Device memory of the call: [p, p + bytes).
void begin_call();
void add_range(const void* p, int64_t bytes, bool writable);

}  // namespace lkca::cuda::emulation

// Knobs and readings for the tests (ctypes).
extern "C" {
/// 0 ascending, 1 descending, else the seed of a shuffle: threads take turns at every barrier, with an even seed warps
/// at those of the block alone.
void lkca_emulation_thread_order(int order);
/// Launch at most this many blocks (the loop over work must take the rest); 0: no cap.
void lkca_emulation_max_blocks(int64_t blocks);
/// Blocks of the low-rank forward: how many LowrankForward should come to at least, how many LowrankRows can have at
/// once (with few, each takes several chunks); 0: the usual.
void lkca_emulation_forward_blocks(int64_t blocks);
/// Run only the last `blocks` blocks of each grid (for shapes too large to emulate in full); 0: all.
void lkca_emulation_only_last(int64_t blocks);
/// Bytes written to the i-th writable range of the last call, in the order of registration.
int64_t lkca_emulation_bytes_written(int i);
/// Bytes read from the i-th read-only range of the last call.
int64_t lkca_emulation_bytes_read(int i);
/// How many of the writes to the i-th writable range were whole 16-byte vectors, in bytes.
int64_t lkca_emulation_vector_bytes(int i);
/// Largest dynamic shared memory of a block in the last call.
int64_t lkca_emulation_shared_bytes();
/// The value after storage as float32 (0), float16 (1) or bfloat16 (2), by the host's own conversions.
float lkca_emulation_round(int dtype, float value);
/// Sample that stands at position i of a line of n: by inside(), and by bicubic_border().
int lkca_emulation_inside(int i, int n, int convention);
int lkca_emulation_border(int i, int n, int convention);
/// even_splits().
int64_t lkca_emulation_even_splits(int64_t tiles, int64_t chunks, int64_t processors, int64_t at_once);
/// n / divisor by FastDiv.
int lkca_emulation_divide(int divisor, int n);
}
