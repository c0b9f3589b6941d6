#include "cpu/operators.h"

#include <torch/csrc/inductor/aoti_torch/c/shim.h>

#include <algorithm>
#include <array>

#include "cpu/storage.h"

namespace lkca::cpu {

using torch::headeronly::MemoryFormat;
using torch::headeronly::ScalarType;

namespace {

std::string text(const Shape& shape) {
  std::string s = "(";
  for (size_t k = 0; k < shape.size(); ++k) s += (k ? ", " : "") + std::to_string(shape[k]);
  return s + ")";
}

template <typename F>
void with_storage(DType dtype, F f) {
  if (dtype == DType::f32) return f(float{});
  if (dtype == DType::bf16) return f(BF16{});
  f(F16{});
}

}  // namespace

Shape shape_of(const Tensor& t) {
  const auto sizes = t.sizes();
  return Shape(sizes.begin(), sizes.end());
}

void check(const Tensor& t, const char* name, const Shape& shape, ScalarType dtype) {
  STD_TORCH_CHECK(t.is_cpu(), name, ": expected a CPU tensor");
  STD_TORCH_CHECK(t.scalar_type() == dtype, name, ": expected dtype ", torch::headeronly::toString(dtype), ", got ",
                  torch::headeronly::toString(t.scalar_type()));
  const auto sizes = t.sizes();
  STD_TORCH_CHECK(std::equal(sizes.begin(), sizes.end(), shape.begin(), shape.end()), name, ": expected shape ",
                  text(shape), ", got ", text(shape_of(t)));
}

void check_scale(int64_t scale, int64_t channels, const char* name) {
  STD_TORCH_CHECK(scale >= 1 && scale <= kMaxScale, "upscale_factor: expected 1 to ", kMaxScale, ", got ", scale);
  STD_TORCH_CHECK(channels % (scale * scale) == 0, name, ": expected a multiple of upscale_factor^2 = ", scale * scale,
                  " channels, got ", channels);
}

DType storage_dtype(const Tensor& t, const char* name) {
  const ScalarType type = t.scalar_type();
  if (type == ScalarType::Float) return DType::f32;
  if (type == ScalarType::BFloat16) return DType::bf16;
  if (type == ScalarType::Half) return DType::f16;
  STD_TORCH_CHECK(false, name, ": expected float32, bfloat16 or float16, got ", torch::headeronly::toString(type));
  return DType::f32;
}

int64_t element_bytes(DType dtype) { return dtype == DType::f32 ? 4 : 2; }

Bicubic bicubic_convention(int64_t code) {
  STD_TORCH_CHECK(code == 0 || code == 1, "skip_bicubic: expected 0 (matlab) or 1 (torch), got ", code);
  return static_cast<Bicubic>(code);
}

std::vector<BicubicTaps> bicubic_table(int64_t scale, Bicubic convention) {
  std::vector<BicubicTaps> taps;
  for (int64_t phase = 0; phase < scale; ++phase)
    taps.push_back(bicubic_taps(static_cast<int>(phase), static_cast<int>(scale), convention));
  return taps;
}

Skip skip_kind(const OptionalTensor& skip, const Shape& low, const Shape& high, ScalarType dtype) {
  if (!skip) return Skip::none;
  const Shape got = shape_of(*skip);
  STD_TORCH_CHECK(got == low || got == high, "skip: expected shape ", text(high), " or ", text(low), ", got ",
                  text(got));
  check(*skip, "skip", got, dtype);
  return got == high ? Skip::high : Skip::low;
}

bool is_channels_last(const Tensor& t) {
  if (t.dim() != 4 || t.is_contiguous()) return false;
  const auto size = t.sizes();
  const auto stride = t.strides();
  int64_t expected = 1;
  for (const int d : {1, 3, 2, 0}) {
    if (size[d] != 1 && stride[d] != expected) return false;
    expected *= size[d];
  }
  return true;
}

namespace {

// torch::stable::empty asks the dispatcher for the operator by name each time.
Tensor empty(const Shape& shape, ScalarType dtype, bool channels_last) {
  const int64_t dims = static_cast<int64_t>(shape.size());
  Shape strides(shape.size());
  int64_t step = 1;
  for (int64_t k = 0; k < dims; ++k) {
    const int64_t d = channels_last ? std::array<int64_t, 4>{1, 3, 2, 0}[k] : dims - 1 - k;
    strides[d] = step;
    step *= std::max<int64_t>(1, shape[d]);
  }
  AtenTensorHandle handle;
  const AOTITorchError failed = aoti_torch_empty_strided(
      dims, shape.data(), strides.data(), torch::stable::detail::to<int32_t>(torch::stable::detail::from(dtype)),
      aoti_torch_device_type_cpu(), 0, &handle);
  STD_TORCH_CHECK(failed == AOTI_TORCH_SUCCESS, "can't allocate memory for ", step,
                  " numbers");  // as torch's allocator
  return Tensor(handle);
}

}  // namespace

Tensor dense(const Tensor& t, bool channels_last) {
  if (channels_last ? is_channels_last(t) : t.is_contiguous()) return t;
  Tensor copy = empty(shape_of(t), t.scalar_type(), channels_last);
  return torch::stable::copy_(copy, t);
}

Tensor empty_of(const Shape& shape, ScalarType dtype) { return empty(shape, dtype, false); }

Tensor empty_as(const Tensor& like) { return empty(shape_of(like), like.scalar_type(), is_channels_last(like)); }

Tensor output_of(const OptionalTensor& out, const Shape& shape, ScalarType dtype) {
  if (out) {
    check(*out, "out", shape, dtype);
    STD_TORCH_CHECK(out->is_contiguous(), "out: expected a contiguous tensor");
    return *out;
  }
  Tensor fresh = empty_of(shape, dtype);
  advise_huge_pages(fresh.mutable_data_ptr(), fresh.numel() * (dtype == ScalarType::Float ? 4 : 2));
  return fresh;
}

Tensor output_like(const OptionalTensor& out, const Tensor& x) {
  if (!out) return empty_as(x);
  check(*out, "out", shape_of(x), x.scalar_type());
  STD_TORCH_CHECK(is_channels_last(x) ? is_channels_last(*out) : out->is_contiguous(), "out: expected the layout of x");
  return *out;
}

std::vector<float> floats_of(const Tensor& t) {
  const Tensor from = dense(t);
  std::vector<float> values(t.numel());
  with_storage(storage_dtype(t, "tensor"), [&](auto type) {
    const auto* source = static_cast<const decltype(type)*>(from.const_data_ptr());
    for (size_t k = 0; k < values.size(); ++k) values[k] = to_float(source[k]);
  });
  return values;
}

std::vector<float> floats_of(const OptionalTensor& t) { return t ? floats_of(*t) : std::vector<float>(); }

std::vector<float> packed(const std::vector<float>& w, int64_t rows, int64_t columns, bool transposed, int64_t stride,
                          int64_t more_rows) {
  std::vector<float> to(((transposed ? columns : rows) + more_rows) * stride, 0.f);
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < columns; ++c) to[transposed ? c * stride + r : r * stride + c] = w[r * columns + c];
  return to;
}

std::vector<float> sum_slices(const float* partial, int64_t slices, int64_t floats, int64_t rows, int64_t columns,
                              int64_t stride, bool transposed) {
  std::vector<float> sums(rows * columns, 0.f);
  parallel_tasks(rows, slices * columns, [&](int64_t begin, int64_t end) {
    for (int64_t slice = 0; slice < slices; ++slice)
      for (int64_t r = begin; r < end; ++r) {
        const float* from = partial + slice * floats + r * stride;
        float* to = sums.data() + r * columns;
        for (int64_t c = 0; c < columns; ++c) to[c] += from[c];
      }
  });
  return transposed ? packed(sums, rows, columns, true, rows) : sums;
}

int64_t whole_vectors(int64_t floats) {
  const int64_t lanes = kernels().lanes;
  return (floats + lanes - 1) / lanes * lanes;
}

Tensor tensor_of(const std::vector<float>& values, const Shape& shape, ScalarType dtype) {
  const Tensor result = empty_of(shape, dtype);
  with_storage(storage_dtype(result, "tensor"), [&](auto type) {
    using T = decltype(type);
    T* to = static_cast<T*>(result.mutable_data_ptr());
    for (size_t k = 0; k < values.size(); ++k) to[k] = from_float<T>(values[k]);
  });
  return result;
}

void copy_strides(const Tensor& t, int64_t (&strides)[4]) {
  const auto source = t.strides();
  for (int d = 0; d < 4; ++d) strides[d] = source[d];
}

}  // namespace lkca::cpu
