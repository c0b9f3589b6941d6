// A grid of blocks of threads, on the card (DeviceGrid) or emulated (emulation::HostGrid), and the launch.
// A kernel is a struct K with
//   Args, threads, min_blocks (per multiprocessor), static blocks(args), static shared_bytes(args),
//   template <class Grid> static run(const Grid&, const Args&, unsigned char* shared).
// run() loops over its work from grid.block() in steps of grid.blocks(), so any number of blocks is right.
#pragma once

#include "api.h"
#include "platform.h"

#if defined(__CUDACC__)
#include <cuda_runtime.h>
#endif

namespace lkca::cuda {

constexpr int64_t kMaxBlocks = 0x7fffffff;  // gridDim.x; the loop in run() takes what is beyond

#if defined(__CUDACC__)

struct DeviceGrid {
  LKCA_BODY int thread() const { return static_cast<int>(threadIdx.x); }
  LKCA_BODY int64_t block() const { return blockIdx.x; }
  LKCA_BODY int64_t blocks() const { return gridDim.x; }
  LKCA_BODY void sync() const { __syncthreads(); }
  /// Brings a warp together again after its threads went different ways: mma() needs all of them at once.
  LKCA_BODY void sync_warp() const { __syncwarp(); }

  /// Sends 4 or 16 bytes on their way from global to shared memory: there for this thread when awaited, for others when
  /// they have met it at a barrier after that. Nothing where not `wanted`; lanes may part over that.
  template <int Bytes>
  LKCA_BODY void copy(void* to, const void* from, bool wanted = true) const {
    const auto target = static_cast<uint32_t>(__cvta_generic_to_shared(to));
    if constexpr (Bytes == 16) {  // past L1, which would only be in the way
      asm volatile("{.reg .pred p; setp.ne.u32 p, %2, 0; @p cp.async.cg.shared.global [%0], [%1], 16;}" ::"r"(target),
                   "l"(from), "r"(static_cast<uint32_t>(wanted))
                   : "memory");
    } else {
      asm volatile("{.reg .pred p; setp.ne.u32 p, %3, 0; @p cp.async.ca.shared.global [%0], [%1], %2;}" ::"r"(target),
                   "l"(from), "n"(Bytes), "r"(static_cast<uint32_t>(wanted))
                   : "memory");
    }
  }
  /// Ends a group of this thread's copies.
  LKCA_BODY void close_copies() const { asm volatile("cp.async.commit_group;" ::: "memory"); }
  /// Waits for all groups but the `Pending` latest.
  template <int Pending>
  LKCA_BODY void await_copies() const {
    asm volatile("cp.async.wait_group %0;" ::"n"(Pending) : "memory");
  }

  /// What lane `from` of the warp has.
  LKCA_BODY uint32_t shuffle(uint32_t value, int from) const { return __shfl_sync(0xffffffffu, value, from); }
  /// Sum over the 32 lanes, the same in each; a butterfly, so the order never changes.
  LKCA_BODY float warp_sum(float value) const {
    LKCA_UNROLL
    for (int mask = 16; mask > 0; mask >>= 1) value += __shfl_xor_sync(0xffffffffu, value, mask);
    return value;
  }

  /// d += a (16x16) * b (16x8), PTX mma.sync.m16n8k16: 16-bit operands, float accumulators.
  LKCA_BODY void mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], half_t) const {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  }
  LKCA_BODY void mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], bfloat_t) const {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  }

  /// d += a (16x8) * b (8x8), PTX mma.sync.m16n8k8.
  LKCA_BODY void mma(float (&d)[4], const uint32_t (&a)[2], uint32_t b, half_t) const {
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(b));
  }
  LKCA_BODY void mma(float (&d)[4], const uint32_t (&a)[2], uint32_t b, bfloat_t) const {
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(b));
  }
};

template <class K>
__global__ void __launch_bounds__(K::threads, K::min_blocks) grid_kernel(const typename K::Args args) {
  extern __shared__ __align__(16) unsigned char shared[];
  K::run(DeviceGrid(), args, shared);
}

/// The error as text; the runtime forgets it, else the next check elsewhere would find it.
inline const char* taken(cudaError_t error) {
  cudaGetLastError();
  return cudaGetErrorString(error);
}

template <class K>
cudaError_t allow_shared(int64_t bytes) {
  if (bytes <= 48 * 1024) return cudaSuccess;
  return cudaFuncSetAttribute(grid_kernel<K>, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes));
}

/// The card's multiprocessors, and how many blocks each runs at once; the error as text, or nullptr. Asks the current
/// device, and nothing of a stream: safe in a CUDA graph.
template <class K>
const char* side_by_side(const typename K::Args& args, int64_t& processors, int64_t& at_once) {
  const int64_t bytes = K::shared_bytes(args);
  int device = 0, count = 0, blocks = 0;
  cudaError_t error = allow_shared<K>(bytes);
  if (error == cudaSuccess) error = cudaGetDevice(&device);
  if (error == cudaSuccess) error = cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device);
  if (error == cudaSuccess) {
    error =
        cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, grid_kernel<K>, K::threads, static_cast<size_t>(bytes));
  }
  processors = count;
  at_once = blocks;
  return error == cudaSuccess ? nullptr : taken(error);
}

/// Launches K; the error as text, or nullptr. Neither synchronises nor allocates: safe in a CUDA graph.
template <class K>
const char* launch(const typename K::Args& args, Stream stream) {
  const int64_t blocks = K::blocks(args);
  if (blocks == 0) return nullptr;
  const int64_t bytes = K::shared_bytes(args);
  cudaError_t error = allow_shared<K>(bytes);
  if (error != cudaSuccess) return taken(error);
  grid_kernel<K><<<static_cast<unsigned>(smaller(blocks, kMaxBlocks)), K::threads, static_cast<size_t>(bytes),
                   static_cast<cudaStream_t>(stream)>>>(args);
  error = cudaGetLastError();
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

#else

template <class K>
const char* side_by_side(const typename K::Args&, int64_t& processors, int64_t& at_once) {
  processors = emulation::forward_blocks(132);
  at_once = 1;
  return nullptr;
}

template <class K>
const char* launch(const typename K::Args& args, Stream) {
  const int64_t blocks = K::blocks(args);
  if (blocks == 0) return nullptr;
  return emulation::run_grid(
      smaller(blocks, kMaxBlocks), K::threads, K::shared_bytes(args),
      [&](const emulation::HostGrid& grid, unsigned char* shared) { K::run(grid, args, shared); });
}

#endif

}  // namespace lkca::cuda
