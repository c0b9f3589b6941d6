#include "cpu/strips.h"

namespace lkca::cpu {

void set_image(Strips& a, const Tensor& x, const OptionalTensor& residual) {
  STD_TORCH_CHECK(x.dim() == 4, "x: expected (B, C, H, W), got ", x.dim(), " dimensions");
  STD_TORCH_CHECK(x.is_cpu(), "x: expected a CPU tensor");
  a.dtype = storage_dtype(x, "x");
  a.batch = x.size(0), a.channels = x.size(1), a.height = x.size(2), a.width = x.size(3);
  a.x = x.const_data_ptr();
  copy_strides(x, a.x_stride);
  if (!residual) return;
  check(*residual, "residual", shape_of(x), x.scalar_type());
  a.residual = residual->const_data_ptr();
  copy_strides(*residual, a.residual_stride);
}

void set_result(Strips& a, const Tensor& result) {
  a.out = result.mutable_data_ptr();
  copy_strides(result, a.out_stride);
}

void set_gradients(Strips& a, const Tensor& x, const Tensor& grad_out, const OptionalTensor& grad_x) {
  check(grad_out, "grad_out", shape_of(x), x.scalar_type());
  a.grad_out = grad_out.const_data_ptr();
  copy_strides(grad_out, a.grad_out_stride);
  if (!grad_x) return;
  a.grad_x = grad_x->mutable_data_ptr();
  copy_strides(*grad_x, a.grad_x_stride);
}

int64_t strips_of(const Strips& a) { return (a.width + a.strip - 1) / a.strip; }

int64_t slices_of(const Strips& a) {
  return a.channels == 0 ? 0 : a.batch * strips_of(a) * ((a.height + a.slice_rows - 1) / a.slice_rows);
}

}  // namespace lkca::cpu
