// The operators as the dispatcher calls them (registration_cpu.cpp) and what their drivers share. Shapes and meaning:
// lkca_kernels/ops and lkca_kernels/backends.py. Everything is checked here again: a wrong call from any caller throws.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <exception>
#include <mutex>
#include <optional>
#include <tuple>
#include <vector>

#include "cpu/dispatch.h"
#include "cpu/kernels.h"
#include "cpu/memory.h"

namespace lkca::cpu {

using torch::stable::Tensor;
using OptionalTensor = std::optional<Tensor>;

Tensor lowrank_pixel_shuffle_fwd(Tensor z, Tensor weight, OptionalTensor bias, OptionalTensor gate, OptionalTensor skip,
                                 int64_t scale, int64_t bicubic, OptionalTensor out);
// Writes rows first:last to `out`, (B, C, (last - first) s, w s) of int16, uint16 or float32; returns the extremes
// (2,).
Tensor lowrank_pixel_shuffle_stored(Tensor z, Tensor weight, OptionalTensor bias, OptionalTensor skip,
                                    OptionalTensor least, Tensor gain, int64_t scale, int64_t bicubic, int64_t first,
                                    int64_t last, Tensor out);
// `needs`: bit k asks for the gradient of the k-th tensor input.
std::tuple<OptionalTensor, OptionalTensor, OptionalTensor, OptionalTensor, OptionalTensor> lowrank_pixel_shuffle_bwd(
    Tensor grad_out, Tensor z, Tensor weight, OptionalTensor bias, OptionalTensor gate, OptionalTensor skip,
    int64_t scale, int64_t bicubic, int64_t needs);

Tensor pixel_shuffle_epilogue_fwd(Tensor y, OptionalTensor gate, OptionalTensor skip, int64_t scale, int64_t bicubic,
                                  OptionalTensor out);
std::tuple<OptionalTensor, OptionalTensor, OptionalTensor> pixel_shuffle_epilogue_bwd(
    Tensor grad_out, Tensor y, OptionalTensor gate, OptionalTensor skip, int64_t scale, int64_t bicubic, int64_t needs);

std::tuple<Tensor, Tensor> channel_gate_fwd(Tensor x, Tensor w1, Tensor b1, Tensor w2, Tensor b2);
std::tuple<OptionalTensor, OptionalTensor, OptionalTensor, OptionalTensor, OptionalTensor> channel_gate_bwd(
    Tensor grad_gate, Tensor x, Tensor mean, Tensor w1, Tensor b1, Tensor w2, Tensor b2, int64_t needs);
std::tuple<Tensor, Tensor> channel_attention_fwd(Tensor x, Tensor w1, Tensor b1, Tensor w2, Tensor b2,
                                                 OptionalTensor residual, OptionalTensor out);
std::tuple<OptionalTensor, OptionalTensor, OptionalTensor, OptionalTensor, OptionalTensor> channel_attention_bwd(
    Tensor grad_out, Tensor x, Tensor mean, Tensor w1, Tensor b1, Tensor w2, Tensor b2, int64_t needs);
Tensor local_channel_attention_fwd(Tensor x, Tensor w1, Tensor w2, OptionalTensor residual, int64_t window,
                                   OptionalTensor out);
std::tuple<OptionalTensor, OptionalTensor, OptionalTensor> local_channel_attention_bwd(Tensor grad_out, Tensor x,
                                                                                       Tensor w1, Tensor w2,
                                                                                       int64_t window, int64_t needs);
Tensor large_kernel_branch_fwd(Tensor x, Tensor depthwise, Tensor expand, Tensor contract, OptionalTensor residual,
                               OptionalTensor out);
std::tuple<OptionalTensor, OptionalTensor, OptionalTensor, OptionalTensor> large_kernel_branch_bwd(
    Tensor grad_out, Tensor x, Tensor depthwise, Tensor expand, Tensor contract, int64_t needs);

// ---- shared by the drivers (operators.cpp) -----------------------------------------------------------------------

constexpr int64_t kMaxScale = 1024;

using Shape = std::vector<int64_t>;

// Throws unless t is a CPU tensor of this shape and dtype.
void check(const Tensor& t, const char* name, const Shape& shape, torch::headeronly::ScalarType dtype);
// The given output, which has the layout of x, or a fresh one.
Tensor output_like(const OptionalTensor& out, const Tensor& x);
void check_scale(int64_t scale, int64_t channels_times_s2, const char* name);
DType storage_dtype(const Tensor& t, const char* name);
int64_t element_bytes(DType dtype);
Bicubic bicubic_convention(int64_t code);
std::vector<BicubicTaps> bicubic_table(int64_t scale, Bicubic convention);
// What the skip is, by its shape; throws where it is neither.
Skip skip_kind(const OptionalTensor& skip, const Shape& low, const Shape& high, torch::headeronly::ScalarType dtype);

bool is_channels_last(const Tensor& t);
// t itself where it is dense in that layout, else a copy: what torch::stable::contiguous gives, which asks the
// dispatcher each time.
Tensor dense(const Tensor& t, bool channels_last = false);
// Fresh tensor in the layout of `like` (contiguous or channels_last).
Tensor empty_as(const Tensor& like);
Tensor empty_of(const Shape& shape, torch::headeronly::ScalarType dtype);
// The given output, checked, or a fresh one of this shape on huge pages if it is large.
Tensor output_of(const OptionalTensor& out, const Shape& shape, torch::headeronly::ScalarType dtype);

Shape shape_of(const Tensor& t);
// fp32 copies, of any strides; of no tensor, nothing.
std::vector<float> floats_of(const Tensor& t);
std::vector<float> floats_of(const OptionalTensor& t);
// w (rows, columns), or its transpose, as rows of `stride` floats, zeros from the last column on and in `more_rows`.
std::vector<float> packed(const std::vector<float>& w, int64_t rows, int64_t columns, bool transposed, int64_t stride,
                          int64_t more_rows = 0);
// (rows, columns), or its transpose: the sum, in order, of `slices` partial ones, `floats` floats from one to the next,
// whose rows are `stride` floats apart.
std::vector<float> sum_slices(const float* partial, int64_t slices, int64_t floats, int64_t rows, int64_t columns,
                              int64_t stride, bool transposed = false);
int64_t whole_vectors(int64_t floats);  // padded to the vectors of the variant in use
Tensor tensor_of(const std::vector<float>& values, const Shape& shape, torch::headeronly::ScalarType dtype);
void copy_strides(const Tensor& t, int64_t (&strides)[4]);

// Gradient of a low-resolution skip (B, C, h, w), in its layout, from that of the output.
Tensor bicubic_skip_grad(const Tensor& grad_out, const Tensor& skip, int64_t scale, Bicubic convention);

// Tasks that are worth a thread: about 32 thousand elementary operations.
inline int64_t worth_a_thread(int64_t operations_per_task) {
  return std::max<int64_t>(1, 32768 / std::max<int64_t>(1, operations_per_task));
}

// Runs f(begin, end) over 0 ... count, at least `least` at once, on torch's threads. What a thread throws is thrown
// here: torch's own way through the stable ABI would leave nothing of it, not even that memory ran out.
template <typename F>
void on_threads(int64_t count, int64_t least, const F& f) {
  std::exception_ptr thrown;
  std::mutex one_at_a_time;
  torch::stable::parallel_for(0, count, least, [&](int64_t begin, int64_t end) {
    try {
      f(begin, end);
    } catch (...) {
      const std::lock_guard<std::mutex> lock(one_at_a_time);
      if (!thrown) thrown = std::current_exception();
    }
  });
  if (thrown) std::rethrow_exception(thrown);
}

// Runs f(begin, end) over tasks in parallel. The threads take runs of tasks as they come, several each: where one is
// held up, by other work on its core, the rest is not.
template <typename F>
void parallel_tasks(int64_t tasks, int64_t operations_per_task, const F& f) {
  constexpr int64_t kRunsPerThread = 8;
  if (tasks <= 0) return;
  const int64_t least = worth_a_thread(operations_per_task), threads = torch::stable::get_num_threads();
  if (threads == 1 || tasks <= least) return f(int64_t{0}, tasks);
  const int64_t runs = std::min(kRunsPerThread * threads, (tasks + least - 1) / least);
  std::atomic<int64_t> next{0};
  on_threads(std::min(threads, runs), 1, [&](int64_t, int64_t) {
    for (int64_t run = next++; run < runs; run = next++) f(run * tasks / runs, (run + 1) * tasks / runs);
  });
}

}  // namespace lkca::cpu
