// What the drivers of local_channel_attention and large_kernel_branch share.
#pragma once

#include "cpu/operators.h"

namespace lkca::cpu {

constexpr int64_t kStrip = 64;      // columns; more where a window or kernel is wider
constexpr int64_t kSliceRows = 64;  // rows of one partial sum; more where it is higher

// Throws unless x is an image (B, C, H, W) in memory of the CPU, and the residual like it.
void set_image(Strips& a, const Tensor& x, const OptionalTensor& residual);
void set_result(Strips& a, const Tensor& result);
// Throws unless grad_out is like x.
void set_gradients(Strips& a, const Tensor& x, const Tensor& grad_out, const OptionalTensor& grad_x);

int64_t strips_of(const Strips& a);
int64_t slices_of(const Strips& a);  // none of an empty image

// Runs f(begin, end) over the rows of all strips in parallel, (b * strips + strip) * height + row: one run for a
// thread, since at the beginning of each the rows around its first one are made again.
template <typename F>
void parallel_rows(const Strips& a, int64_t operations_per_row, const F& f) {
  const int64_t rows = a.batch * strips_of(a) * a.height, least = worth_a_thread(operations_per_row);
  if (rows <= least) return f(int64_t{0}, rows);
  on_threads(rows, least, f);
}

}  // namespace lkca::cpu
