// Driver of the gradient of a low-resolution skip, for lowrank.cpp and epilogue.cpp.
#include "cpu/operators.h"

namespace lkca::cpu {

Tensor bicubic_skip_grad(const Tensor& grad_out, const Tensor& skip, int64_t scale, Bicubic convention) {
  const Tensor planes = dense(grad_out);
  const Tensor result = empty_of(shape_of(skip), skip.scalar_type());
  const std::vector<BicubicTaps> taps = bicubic_table(scale, convention);
  BicubicBwd a{};
  a.dtype = storage_dtype(skip, "skip");
  a.planes = skip.size(0) * skip.size(1), a.height = skip.size(2), a.width = skip.size(3);
  a.bicubic = {static_cast<int>(scale), convention, taps.data()};
  a.grad_out = planes.const_data_ptr();
  a.grad_low = result.mutable_data_ptr();
  const Kernels& k = kernels();
  parallel_tasks(result.numel() ? a.planes : 0, a.height * a.width * scale * scale, [&](int64_t begin, int64_t end) {
    const Scratch scratch(k.bicubic_bwd_scratch(a));
    k.bicubic_bwd(a, begin, end, scratch.data());
  });
  return dense(result, is_channels_last(skip));
}

}  // namespace lkca::cpu
