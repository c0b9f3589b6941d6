// Driver of large_kernel_branch: packs the weights and cuts the image into runs of rows.
#include <algorithm>

#include "cpu/operators.h"

namespace lkca::cpu {
namespace {

constexpr int64_t kStrip = 64;  // columns; more where a kernel is wider, so that halos stay below the work

LargeKernel check_call(const Tensor& x, const Tensor& depthwise, const Tensor& expand, const Tensor& contract) {
  STD_TORCH_CHECK(x.dim() == 4, "x: expected (B, C, H, W), got ", x.dim(), " dimensions");
  STD_TORCH_CHECK(x.is_cpu(), "x: expected a CPU tensor");
  STD_TORCH_CHECK(depthwise.dim() == 4, "depthwise: expected (C, 1, k, k), got ", depthwise.dim(), " dimensions");
  STD_TORCH_CHECK(expand.dim() == 2, "expand: expected (M, C), got ", expand.dim(), " dimensions");
  LargeKernel a{};
  a.dtype = storage_dtype(x, "x");
  a.batch = x.size(0), a.channels = x.size(1), a.height = x.size(2), a.width = x.size(3), a.hidden = expand.size(0);
  a.kernel_y = depthwise.size(2), a.kernel_x = depthwise.size(3);
  STD_TORCH_CHECK(a.kernel_y % 2 == 1 && a.kernel_x % 2 == 1, "depthwise: expected odd sides, got ", a.kernel_y,
                  " and ", a.kernel_x);
  check(depthwise, "depthwise", {a.channels, 1, a.kernel_y, a.kernel_x}, x.scalar_type());
  check(expand, "expand", {a.hidden, a.channels}, x.scalar_type());
  check(contract, "contract", {a.channels, a.hidden}, x.scalar_type());
  a.lanes = whole_vectors(a.channels), a.fields = whole_vectors(a.hidden);
  a.strip = std::max(kStrip, a.kernel_x);
  a.x = x.const_data_ptr();
  copy_strides(x, a.x_stride);
  return a;
}

}  // namespace

Tensor large_kernel_branch_fwd(Tensor x, Tensor depthwise, Tensor expand, Tensor contract, OptionalTensor residual,
                               OptionalTensor out) {
  LargeKernel a = check_call(x, depthwise, expand, contract);
  if (residual) check(*residual, "residual", shape_of(x), x.scalar_type());
  const Tensor result = output_like(out, x);
  if (result.numel() == 0) return result;
  const std::vector<float> kernel = packed(floats_of(depthwise), a.channels, a.kernel_y * a.kernel_x, true, a.lanes);
  const std::vector<float> w1 = packed(floats_of(expand), a.hidden, a.channels, true, a.fields);
  const std::vector<float> w2 = packed(floats_of(contract), a.channels, a.hidden, true, a.lanes);
  a.depthwise = kernel.data(), a.w1 = w1.data(), a.w2 = w2.data();
  if (residual) {
    a.residual = residual->const_data_ptr();
    copy_strides(*residual, a.residual_stride);
  }
  a.out = result.mutable_data_ptr();
  copy_strides(result, a.out_stride);
  const Kernels& k = kernels();
  const int64_t strips = (a.width + a.strip - 1) / a.strip;
  const int64_t pixel = a.kernel_y * a.kernel_x * a.lanes + a.channels * a.fields + a.hidden * a.lanes;
  // Threads get runs of rows: at the beginning of a run the rows that its first window reaches are loaded again.
  parallel_tasks(a.batch * strips * a.height, std::min(a.strip, a.width) * pixel / 16, [&](int64_t begin, int64_t end) {
    const Scratch scratch(k.large_kernel_scratch(a));
    k.large_kernel_fwd(a, begin, end, scratch.data());
  });
  return result;
}

}  // namespace lkca::cpu
