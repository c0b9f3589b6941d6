// The CUDA operators in torch's namespace lkca_cuda, over the stable ABI. Results are written into tensors that the
// caller gives; workspaces come from torch's allocator, so that a call can be captured in a CUDA graph.
//
// With LKCA_EMULATED_GRID the same file serves CPU tensors on the emulated grid of csrc/cuda/emulation.h (tests only).
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <initializer_list>
#include <optional>
#include <string>
#include <vector>

#include "cuda/api.h"
#if defined(LKCA_EMULATED_GRID)
#include "cuda/emulation.h"
#endif

namespace {

using namespace lkca::cuda;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using OptionalTensor = std::optional<Tensor>;

std::string text(const std::vector<int64_t>& sizes) {
  std::string words = "(";
  for (size_t i = 0; i < sizes.size(); ++i) words += (i > 0 ? ", " : "") + std::to_string(sizes[i]);
  return words + ")";
}

/// One call: checks that tensors are what the kernels expect (Python has checked them too; a C++ caller may not have),
/// makes their device current and knows its stream.
class Call {
 public:
  Call(const char* op, const Tensor& first) : op_(op), first_(first) {
    STD_TORCH_CHECK(first.scalar_type() == ScalarType::Float || first.scalar_type() == ScalarType::Half ||
                        first.scalar_type() == ScalarType::BFloat16,
                    op, ": expected float32, float16 or bfloat16");
#if defined(LKCA_EMULATED_GRID)
    emulation::begin_call();
#else
    STD_TORCH_CHECK(first.is_cuda(), op, ": expected CUDA tensors");
    guard_.emplace(first.get_device_index());
    // Torch's own macro for this has another name before 2.12.
    STD_TORCH_CHECK(aoti_torch_get_current_cuda_stream(first.get_device_index(), &stream_) == AOTI_TORCH_SUCCESS, op,
                    ": the current CUDA stream could not be had");
#endif
  }

  Dtype dtype() const {
    return first_.scalar_type() == ScalarType::Float  ? Dtype::float32
           : first_.scalar_type() == ScalarType::Half ? Dtype::float16
                                                      : Dtype::bfloat16;
  }
  Stream stream() const { return stream_; }

  const void* input(const char* name, const Tensor& tensor, const std::vector<int64_t>& sizes) const {
    return checked(name, tensor, sizes, first_.scalar_type(), false);
  }
  const void* input(const char* name, const OptionalTensor& tensor, const std::vector<int64_t>& sizes) const {
    return tensor.has_value() ? input(name, *tensor, sizes) : nullptr;
  }
  void* output(const char* name, const Tensor& tensor, const std::vector<int64_t>& sizes) const {
    return checked(name, tensor, sizes, first_.scalar_type(), true);
  }
  void* output(const char* name, const OptionalTensor& tensor, const std::vector<int64_t>& sizes) const {
    return tensor.has_value() ? output(name, *tensor, sizes) : nullptr;
  }
  float* float_tensor(const char* name, const Tensor& tensor, const std::vector<int64_t>& sizes, bool writable) const {
    return static_cast<float*>(checked(name, tensor, sizes, ScalarType::Float, writable));
  }
  float* workspace(int64_t floats) {
    workspace_ = torch::stable::new_empty(first_, {floats}, ScalarType::Float);
    return float_tensor("workspace", *workspace_, {floats}, true);
  }

  void done(const char* error) const { STD_TORCH_CHECK(error == nullptr, op_, ": ", error); }

 private:
  void* checked(const char* name, const Tensor& tensor, const std::vector<int64_t>& sizes, ScalarType dtype,
                bool writable) const {
    bool same = tensor.dim() == static_cast<int64_t>(sizes.size());
    std::vector<int64_t> got;
    for (int64_t i = 0; i < tensor.dim(); ++i) got.push_back(tensor.size(i));
    same = same && got == sizes;
    STD_TORCH_CHECK(same, op_, ": ", name, ": expected shape ", text(sizes), ", got ", text(got));
    STD_TORCH_CHECK(tensor.scalar_type() == dtype, op_, ": ", name, ": the dtype differs from what is expected");
    STD_TORCH_CHECK(tensor.is_contiguous(), op_, ": ", name, ": expected a contiguous tensor");
#if defined(LKCA_EMULATED_GRID)
    emulation::add_range(tensor.data_ptr(), tensor.numel() * static_cast<int64_t>(tensor.element_size()), writable);
#else
    (void)writable;
    STD_TORCH_CHECK(tensor.is_cuda() && tensor.get_device_index() == first_.get_device_index(), op_, ": ", name,
                    ": expected the device of the first tensor");
#endif
    return tensor.data_ptr();
  }

  const char* op_;
  const Tensor& first_;
  std::optional<Tensor> workspace_;
  Stream stream_ = nullptr;
#if !defined(LKCA_EMULATED_GRID)
  std::optional<torch::stable::accelerator::DeviceGuard> guard_;
#endif
};

void check_dims(const char* op, const char* name, const Tensor& tensor, int64_t dims) {
  STD_TORCH_CHECK(tensor.dim() == dims, op, ": ", name, ": expected ", dims, " dimensions, got ", tensor.dim());
}

Bicubic bicubic_of(const char* op, int64_t bicubic) {
  STD_TORCH_CHECK(bicubic == 0 || bicubic == 1, op, ": bicubic: expected 0 (matlab) or 1 (torch), got ", bicubic);
  return static_cast<Bicubic>(bicubic);
}

std::vector<int64_t> hr_sizes(const ShuffleProblem& shape) {
  return {shape.batch, shape.channels, shape.height * shape.scale, shape.width * shape.scale};
}

/// The LR cube is told from an HR skip by its height; both are then checked in full.
bool is_low_res(const OptionalTensor& skip, const ShuffleProblem& shape) {
  return skip.has_value() && skip->dim() == 4 && skip->size(2) == shape.height;
}

const void* skip_input(const Call& call, const OptionalTensor& skip, const ShuffleProblem& shape) {
  return call.input("skip", skip,
                    is_low_res(skip, shape)
                        ? std::vector<int64_t>{shape.batch, shape.channels, shape.height, shape.width}
                        : hr_sizes(shape));
}

ShuffleProblem shuffled(const char* op, const Call& call, const Tensor& lr, int64_t rows, int64_t scale) {
  check_dims(op, "z or y", lr, 4);
  STD_TORCH_CHECK(scale >= 2 && scale <= 64, op, ": upscale_factor: expected 2 to 64, got ", scale);
  STD_TORCH_CHECK(rows % (scale * scale) == 0, op, ": ", rows, " rows are no multiple of upscale_factor squared");
  return {call.dtype(), lr.size(0), rows / (scale * scale), lr.size(2), lr.size(3), scale};
}

// ---- low-rank pixel shuffle ----------------------------------------------------------------------------------------
LowrankInputs lowrank_inputs(const Call& call, const ShuffleProblem& shape, const Tensor& z, const Tensor& weight,
                             const OptionalTensor& bias, const OptionalTensor& gate) {
  const int64_t rank = weight.size(1), rows = weight.size(0);
  return {call.input("z", z, {shape.batch, rank, shape.height, shape.width}),
          call.input("weight", weight, {rows, rank}),
          call.input("bias", bias, {rows}),
          call.input("gate", gate, {shape.batch, shape.channels}),
          nullptr,
          rank,
          false,
          Bicubic::matlab};
}

void lowrank_pixel_shuffle_fwd(Tensor z, Tensor weight, OptionalTensor bias, OptionalTensor gate, OptionalTensor skip,
                               int64_t upscale_factor, int64_t bicubic, Tensor out) {
  const char* op = "lowrank_pixel_shuffle_fwd";
  const Call call(op, z);
  check_dims(op, "weight", weight, 2);
  const ShuffleProblem shape = shuffled(op, call, z, weight.size(0), upscale_factor);
  LowrankInputs in = lowrank_inputs(call, shape, z, weight, bias, gate);
  in.skip = skip_input(call, skip, shape);
  in.low_res_skip = is_low_res(skip, shape);
  in.bicubic = bicubic_of(op, bicubic);
  call.done(lowrank_forward(shape, in, call.output("out", out, hr_sizes(shape)), call.stream()));
}

void lowrank_pixel_shuffle_bwd(Tensor grad_out, Tensor z, Tensor weight, OptionalTensor bias, OptionalTensor gate,
                               int64_t upscale_factor, OptionalTensor grad_z, OptionalTensor grad_weight,
                               OptionalTensor grad_bias, OptionalTensor grad_gate) {
  const char* op = "lowrank_pixel_shuffle_bwd";
  Call call(op, z);
  check_dims(op, "weight", weight, 2);
  const ShuffleProblem shape = shuffled(op, call, z, weight.size(0), upscale_factor);
  const LowrankInputs in = lowrank_inputs(call, shape, z, weight, bias, gate);
  const int64_t rank = in.rank, rows = weight.size(0);
  const void* g = call.input("grad_out", grad_out, hr_sizes(shape));
  const LowrankGradients grad{call.output("grad_z", grad_z, {shape.batch, rank, shape.height, shape.width}),
                              call.output("grad_weight", grad_weight, {rows, rank}),
                              call.output("grad_bias", grad_bias, {rows}),
                              call.output("grad_gate", grad_gate, {shape.batch, shape.channels})};
  const bool products = grad_weight.has_value() || grad_bias.has_value() || grad_gate.has_value();
  float* workspace = products ? call.workspace(lowrank_backward_workspace(shape, rank)) : nullptr;
  call.done(lowrank_backward(shape, in, g, grad, workspace, call.stream()));
}

// ---- epilogue of a full-rank convolution -------------------------------------------------------------------------
void pixel_shuffle_epilogue_fwd(Tensor y, OptionalTensor gate, OptionalTensor skip, int64_t upscale_factor,
                                int64_t bicubic, Tensor out) {
  const char* op = "pixel_shuffle_epilogue_fwd";
  const Call call(op, y);
  check_dims(op, "y", y, 4);
  const ShuffleProblem shape = shuffled(op, call, y, y.size(1), upscale_factor);
  const void* y_data = call.input("y", y, {shape.batch, y.size(1), shape.height, shape.width});
  const void* gate_data = call.input("gate", gate, {shape.batch, shape.channels});
  const void* skip_data = skip_input(call, skip, shape);
  void* out_data = call.output("out", out, hr_sizes(shape));
  call.done(epilogue_forward(shape, y_data, gate_data, skip_data, is_low_res(skip, shape), bicubic_of(op, bicubic),
                             out_data, call.stream()));
}

void pixel_shuffle_epilogue_bwd(Tensor grad_out, Tensor y, OptionalTensor gate, int64_t upscale_factor,
                                OptionalTensor grad_y, OptionalTensor grad_gate) {
  const char* op = "pixel_shuffle_epilogue_bwd";
  Call call(op, y);
  check_dims(op, "y", y, 4);
  const ShuffleProblem shape = shuffled(op, call, y, y.size(1), upscale_factor);
  const std::vector<int64_t> y_sizes{shape.batch, y.size(1), shape.height, shape.width};
  const std::vector<int64_t> gate_sizes{shape.batch, shape.channels};
  const void* g = call.input("grad_out", grad_out, hr_sizes(shape));
  const void* y_data = call.input("y", y, y_sizes);
  const void* gate_data = call.input("gate", gate, gate_sizes);
  void* grad_y_data = call.output("grad_y", grad_y, y_sizes);
  void* grad_gate_data = call.output("grad_gate", grad_gate, gate_sizes);
  float* workspace = grad_gate.has_value() ? call.workspace(epilogue_backward_workspace(shape)) : nullptr;
  call.done(epilogue_backward(shape, g, y_data, gate_data, grad_y_data, grad_gate_data, workspace, call.stream()));
}

void bicubic_skip_bwd(Tensor grad_out, int64_t upscale_factor, int64_t bicubic, Tensor grad_skip) {
  const char* op = "bicubic_skip_bwd";
  const Call call(op, grad_out);
  check_dims(op, "grad_skip", grad_skip, 4);
  const ShuffleProblem shape{call.dtype(),      grad_skip.size(0), grad_skip.size(1),
                             grad_skip.size(2), grad_skip.size(3), upscale_factor};
  const void* g = call.input("grad_out", grad_out, hr_sizes(shape));
  void* out = call.output("grad_skip", grad_skip, {shape.batch, shape.channels, shape.height, shape.width});
  call.done(skip_backward(shape, bicubic_of(op, bicubic), g, out, call.stream()));
}

// ---- channel attention ---------------------------------------------------------------------------------------------
AttentionProblem attention_problem(const char* op, const Call& call, const Tensor& like, const Tensor& w1) {
  STD_TORCH_CHECK(like.dim() >= 2, op, ": x: expected (B, C, H, W), got ", like.dim(), " dimensions");
  check_dims(op, "w1", w1, 2);
  int64_t pixels = 1;
  for (int64_t i = 2; i < like.dim(); ++i) pixels *= like.size(i);
  return {call.dtype(), like.size(0), like.size(1), w1.size(0), pixels};
}

AttentionLayers attention_layers(const Call& call, const AttentionProblem& shape, const Tensor& w1, const Tensor& b1,
                                 const Tensor& w2, const Tensor& b2) {
  return {call.input("w1", w1, {shape.hidden, shape.channels}), call.input("b1", b1, {shape.hidden}),
          call.input("w2", w2, {shape.channels, shape.hidden}), call.input("b2", b2, {shape.channels})};
}

std::vector<int64_t> sizes_of(const Tensor& tensor) {
  std::vector<int64_t> sizes;
  for (int64_t i = 0; i < tensor.dim(); ++i) sizes.push_back(tensor.size(i));
  return sizes;
}

void channel_gate_fwd(Tensor x, Tensor w1, Tensor b1, Tensor w2, Tensor b2, Tensor gate, Tensor mean) {
  const char* op = "channel_gate_fwd";
  Call call(op, x);
  const AttentionProblem shape = attention_problem(op, call, x, w1);
  const AttentionLayers layers = attention_layers(call, shape, w1, b1, w2, b2);
  const void* x_data = call.input("x", x, sizes_of(x));
  void* gate_data = call.output("gate", gate, {shape.batch, shape.channels});
  float* mean_data = call.float_tensor("mean", mean, {shape.batch, shape.channels}, true);
  call.done(gate_forward(shape, x_data, layers, gate_data, mean_data, call.workspace(attention_workspace(shape)),
                         call.stream()));
}

void channel_attention_fwd(Tensor x, Tensor w1, Tensor b1, Tensor w2, Tensor b2, OptionalTensor residual, Tensor out,
                           Tensor mean) {
  const char* op = "channel_attention_fwd";
  Call call(op, x);
  const AttentionProblem shape = attention_problem(op, call, x, w1);
  const AttentionLayers layers = attention_layers(call, shape, w1, b1, w2, b2);
  const void* x_data = call.input("x", x, sizes_of(x));
  const void* residual_data = call.input("residual", residual, sizes_of(x));
  void* out_data = call.output("out", out, sizes_of(x));
  float* mean_data = call.float_tensor("mean", mean, {shape.batch, shape.channels}, true);
  call.done(attention_forward(shape, x_data, layers, residual_data, out_data, mean_data,
                              call.workspace(attention_workspace(shape)), call.stream()));
}

/// The two backward operators differ in what grad_out is. `x_sizes`: shape of x.
void attention_bwd(const char* op, const Tensor& grad_out, const OptionalTensor& x, const std::vector<int64_t>& x_sizes,
                   const Tensor& mean, const Tensor& w1, const Tensor& b1, const Tensor& w2, const Tensor& b2,
                   const OptionalTensor& grad_x, const OptionalTensor& grad_w1, const OptionalTensor& grad_b1,
                   const OptionalTensor& grad_w2, const OptionalTensor& grad_b2) {
  Call call(op, grad_out);
  check_dims(op, "w1", w1, 2);
  STD_TORCH_CHECK(x_sizes.size() >= 2, op, ": x: expected (B, C, H, W)");
  int64_t pixels = 1;
  for (size_t i = 2; i < x_sizes.size(); ++i) pixels *= x_sizes[i];
  const AttentionProblem shape{call.dtype(), x_sizes[0], x_sizes[1], w1.size(0), pixels};
  const std::vector<int64_t> gate_sizes{shape.batch, shape.channels};
  const void* g = call.input("grad_out", grad_out, x.has_value() ? x_sizes : gate_sizes);
  const void* x_data = call.input("x", x, x_sizes);
  const float* mean_data = call.float_tensor("mean", mean, gate_sizes, false);
  const AttentionLayers layers = attention_layers(call, shape, w1, b1, w2, b2);
  const AttentionGradients grad{
      call.output("grad_x", grad_x, x_sizes), call.output("grad_w1", grad_w1, {shape.hidden, shape.channels}),
      call.output("grad_b1", grad_b1, {shape.hidden}), call.output("grad_w2", grad_w2, {shape.channels, shape.hidden}),
      call.output("grad_b2", grad_b2, {shape.channels})};
  call.done(attention_backward(shape, g, x_data, mean_data, layers, grad,
                               call.workspace(attention_backward_workspace(shape)), call.stream()));
}

void channel_gate_bwd(Tensor grad_gate, std::vector<int64_t> x_sizes, Tensor mean, Tensor w1, Tensor b1, Tensor w2,
                      Tensor b2, OptionalTensor grad_x, OptionalTensor grad_w1, OptionalTensor grad_b1,
                      OptionalTensor grad_w2, OptionalTensor grad_b2) {
  attention_bwd("channel_gate_bwd", grad_gate, std::nullopt, x_sizes, mean, w1, b1, w2, b2, grad_x, grad_w1, grad_b1,
                grad_w2, grad_b2);
}

void channel_attention_bwd(Tensor grad_out, Tensor x, Tensor mean, Tensor w1, Tensor b1, Tensor w2, Tensor b2,
                           OptionalTensor grad_x, OptionalTensor grad_w1, OptionalTensor grad_b1,
                           OptionalTensor grad_w2, OptionalTensor grad_b2) {
  attention_bwd("channel_attention_bwd", grad_out, x, sizes_of(x), mean, w1, b1, w2, b2, grad_x, grad_w1, grad_b1,
                grad_w2, grad_b2);
}

// ---- local channel attention ---------------------------------------------------------------------------------------
LocalAttentionProblem local_attention_problem(const char* op, const Call& call, const Tensor& x, const Tensor& w1,
                                              int64_t window) {
  constexpr int64_t kWindowEnd = int64_t{1} << 20;
  check_dims(op, "x", x, 4);
  check_dims(op, "w1", w1, 2);
  STD_TORCH_CHECK(window > 0 && window < kWindowEnd && window % 2 == 1, op,
                  ": window: expected an odd number from 1 to ", kWindowEnd - 1, ", got ", window);
  return {call.dtype(), x.size(0), x.size(1), w1.size(0), x.size(2), x.size(3), window};
}

LocalAttentionInputs local_attention_inputs(const Call& call, const LocalAttentionProblem& shape, const Tensor& x,
                                            const Tensor& w1, const Tensor& w2) {
  return {call.input("x", x, sizes_of(x)), call.input("w1", w1, {shape.hidden, shape.channels}),
          call.input("w2", w2, {shape.channels, shape.hidden})};
}

void local_channel_attention_fwd(Tensor x, Tensor w1, Tensor w2, OptionalTensor residual, int64_t window, Tensor out) {
  const char* op = "local_channel_attention_fwd";
  Call call(op, x);
  const LocalAttentionProblem shape = local_attention_problem(op, call, x, w1, window);
  const LocalAttentionInputs in = local_attention_inputs(call, shape, x, w1, w2);
  const void* residual_data = call.input("residual", residual, sizes_of(x));
  void* out_data = call.output("out", out, sizes_of(x));
  call.done(local_attention_forward(shape, in, residual_data, out_data,
                                    call.workspace(local_attention_workspace(shape)), call.stream()));
}

void local_channel_attention_bwd(Tensor grad_out, Tensor x, Tensor w1, Tensor w2, int64_t window, OptionalTensor grad_x,
                                 OptionalTensor grad_w1, OptionalTensor grad_w2) {
  const char* op = "local_channel_attention_bwd";
  Call call(op, x);
  const LocalAttentionProblem shape = local_attention_problem(op, call, x, w1, window);
  const LocalAttentionInputs in = local_attention_inputs(call, shape, x, w1, w2);
  const void* g = call.input("grad_out", grad_out, sizes_of(x));
  const LocalAttentionGradients grad{call.output("grad_x", grad_x, sizes_of(x)),
                                     call.output("grad_w1", grad_w1, {shape.hidden, shape.channels}),
                                     call.output("grad_w2", grad_w2, {shape.channels, shape.hidden})};
  call.done(local_attention_backward(shape, in, g, grad, call.workspace(local_attention_backward_workspace(shape)),
                                     call.stream()));
}

}  // namespace

// The emulated operators stand beside the real ones, in a namespace of their own.
#if defined(LKCA_EMULATED_GRID)
#define LKCA_DEFINE STABLE_TORCH_LIBRARY(lkca_cuda_emulated, m)
#define LKCA_IMPLEMENT STABLE_TORCH_LIBRARY_IMPL(lkca_cuda_emulated, CPU, m)
#else
#define LKCA_DEFINE STABLE_TORCH_LIBRARY(lkca_cuda, m)
#define LKCA_IMPLEMENT STABLE_TORCH_LIBRARY_IMPL(lkca_cuda, CUDA, m)
#endif

LKCA_DEFINE {
  m.def(
      "lowrank_pixel_shuffle_fwd(Tensor z, Tensor weight, Tensor? bias, Tensor? gate, Tensor? skip, "
      "int upscale_factor, int bicubic, Tensor(a!) out) -> ()");
  m.def(
      "lowrank_pixel_shuffle_bwd(Tensor grad_out, Tensor z, Tensor weight, Tensor? bias, Tensor? gate, "
      "int upscale_factor, Tensor(a!)? grad_z, Tensor(b!)? grad_weight, Tensor(c!)? grad_bias, "
      "Tensor(d!)? grad_gate) -> ()");
  m.def(
      "pixel_shuffle_epilogue_fwd(Tensor y, Tensor? gate, Tensor? skip, int upscale_factor, int bicubic, "
      "Tensor(a!) out) -> ()");
  m.def(
      "pixel_shuffle_epilogue_bwd(Tensor grad_out, Tensor y, Tensor? gate, int upscale_factor, "
      "Tensor(a!)? grad_y, Tensor(b!)? grad_gate) -> ()");
  m.def("bicubic_skip_bwd(Tensor grad_out, int upscale_factor, int bicubic, Tensor(a!) grad_skip) -> ()");
  m.def(
      "channel_gate_fwd(Tensor x, Tensor w1, Tensor b1, Tensor w2, Tensor b2, Tensor(a!) gate, "
      "Tensor(b!) mean) -> ()");
  m.def(
      "channel_attention_fwd(Tensor x, Tensor w1, Tensor b1, Tensor w2, Tensor b2, Tensor? residual, "
      "Tensor(a!) out, Tensor(b!) mean) -> ()");
  m.def(
      "channel_gate_bwd(Tensor grad_gate, int[] x_sizes, Tensor mean, Tensor w1, Tensor b1, Tensor w2, Tensor b2, "
      "Tensor(a!)? grad_x, Tensor(b!)? grad_w1, Tensor(c!)? grad_b1, Tensor(d!)? grad_w2, Tensor(e!)? grad_b2) -> ()");
  m.def(
      "channel_attention_bwd(Tensor grad_out, Tensor x, Tensor mean, Tensor w1, Tensor b1, Tensor w2, Tensor b2, "
      "Tensor(a!)? grad_x, Tensor(b!)? grad_w1, Tensor(c!)? grad_b1, Tensor(d!)? grad_w2, Tensor(e!)? grad_b2) -> ()");
  m.def(
      "local_channel_attention_fwd(Tensor x, Tensor w1, Tensor w2, Tensor? residual, int window, Tensor(a!) out) "
      "-> ()");
  m.def(
      "local_channel_attention_bwd(Tensor grad_out, Tensor x, Tensor w1, Tensor w2, int window, Tensor(a!)? grad_x, "
      "Tensor(b!)? grad_w1, Tensor(c!)? grad_w2) -> ()");
}

LKCA_IMPLEMENT {
  m.impl("lowrank_pixel_shuffle_fwd", TORCH_BOX(&lowrank_pixel_shuffle_fwd));
  m.impl("lowrank_pixel_shuffle_bwd", TORCH_BOX(&lowrank_pixel_shuffle_bwd));
  m.impl("pixel_shuffle_epilogue_fwd", TORCH_BOX(&pixel_shuffle_epilogue_fwd));
  m.impl("pixel_shuffle_epilogue_bwd", TORCH_BOX(&pixel_shuffle_epilogue_bwd));
  m.impl("bicubic_skip_bwd", TORCH_BOX(&bicubic_skip_bwd));
  m.impl("channel_gate_fwd", TORCH_BOX(&channel_gate_fwd));
  m.impl("channel_attention_fwd", TORCH_BOX(&channel_attention_fwd));
  m.impl("channel_gate_bwd", TORCH_BOX(&channel_gate_bwd));
  m.impl("channel_attention_bwd", TORCH_BOX(&channel_attention_bwd));
  m.impl("local_channel_attention_fwd", TORCH_BOX(&local_channel_attention_fwd));
  m.impl("local_channel_attention_bwd", TORCH_BOX(&local_channel_attention_bwd));
}
