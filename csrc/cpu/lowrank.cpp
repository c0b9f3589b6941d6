// Driver of lowrank_pixel_shuffle: checks, packing, cutting into tasks, fixed-order sums.
#include <algorithm>
#include <cmath>
#include <limits>

#include "cpu/operators.h"

namespace lkca::cpu {
namespace {

using torch::headeronly::ScalarType;

// Outputs from this size on are written past the caches: reading the lines first would cost as much as writing them,
// and a consumer finds little of such an output in its cache anyway. Not where pages are still missing: the system
// clears them at the first touch, and their lines are then in the caches. Measured: docs/cpu_backend.md.
constexpr int64_t kStreamBytes = int64_t{4} << 20;

struct Call {
  int64_t batch, channels, rank, height, width, scale;
  ScalarType type;
  DType dtype;
  Shape low, high;
  Skip skip;
  Bicubic convention;
};

Call check_call(const Tensor& z, const Tensor& weight, const OptionalTensor& bias, const OptionalTensor& gate,
                const OptionalTensor& skip, int64_t scale, int64_t bicubic) {
  STD_TORCH_CHECK(z.dim() == 4, "z: expected (B, R, h, w), got ", z.dim(), " dimensions");
  STD_TORCH_CHECK(weight.dim() == 2, "weight: expected (C*s^2, R), got ", weight.dim(), " dimensions");
  Call call;
  call.type = z.scalar_type();
  call.dtype = storage_dtype(z, "z");
  STD_TORCH_CHECK(z.is_cpu(), "z: expected a CPU tensor");
  check_scale(scale, weight.size(0), "weight");
  call.scale = scale;
  call.batch = z.size(0), call.rank = z.size(1), call.height = z.size(2), call.width = z.size(3);
  const int64_t rows = weight.size(0);
  call.channels = rows / (scale * scale);
  check(weight, "weight", {rows, call.rank}, call.type);
  if (bias) check(*bias, "bias", {rows}, call.type);
  if (gate) check(*gate, "gate", {call.batch, call.channels}, call.type);
  call.low = {call.batch, call.channels, call.height, call.width};
  call.high = {call.batch, call.channels, call.height * scale, call.width * scale};
  call.convention = bicubic_convention(bicubic);
  call.skip = skip_kind(skip, call.low, call.high, call.type);
  return call;
}

const float* data_or_null(const std::vector<float>& v, const OptionalTensor& t) { return t ? v.data() : nullptr; }

// What every forward needs of its tensors, which must live as long: the copies in fp32 too.
struct Forward {
  LowRankFwd a{};
  Tensor weight;
  OptionalTensor skip;
  std::vector<float> bias, gate;
  std::vector<BicubicTaps> taps;

  Forward(const Call& call, const Tensor& z, const Tensor& weights, const OptionalTensor& biases,
          const OptionalTensor& gates, const OptionalTensor& skips)
      : weight(dense(weights)),
        skip(skips ? OptionalTensor(dense(*skips)) : std::nullopt),
        bias(floats_of(biases)),
        gate(floats_of(gates)),
        taps(bicubic_table(call.scale, call.convention)) {
    a.dtype = call.dtype;
    a.batch = call.batch, a.channels = call.channels, a.rank = call.rank;
    a.height = call.height, a.width = call.width, a.scale = static_cast<int>(call.scale);
    a.z = z.const_data_ptr();
    copy_strides(z, a.z_stride);
    a.weight = weight.const_data_ptr();
    a.bias = data_or_null(bias, biases);
    a.gate = data_or_null(gate, gates);
    a.skip_kind = call.skip;
    a.skip = skip ? skip->const_data_ptr() : nullptr;
    a.bicubic = {a.scale, call.convention, taps.data()};
    a.out_rows = a.height;
  }
};

struct PackedWeight {
  const Scratch floats;

  PackedWeight(LowRankFwd& a, const LowRankFwdTable& k) : floats(k.weight_groups(a) * k.weight_group_floats(a)) {
    a.packed_weight = floats.data();
    parallel_tasks(k.weight_groups(a), k.weight_group_floats(a),
                   [&](int64_t begin, int64_t end) { k.pack_weight(a, begin, end); });
  }
};

constexpr int64_t kStoredFloats = int64_t{1} << 20;  // packed at once for lowrank_pixel_shuffle_stored

// Packs z a run of the rows [begin, end) of b * height + y at a time, at most so many floats unless one row has more,
// and calls f(tasks, operations of one) for each run. The threads wait for each other twice a run.
template <typename F>
void forward_rows(LowRankFwd& a, const LowRankFwdTable& k, int64_t begin, int64_t end, int64_t floats, const F& f) {
  const int64_t row_floats = std::max<int64_t>(1, k.packed_row_floats(a));
  const int64_t rows = std::min(end - begin, std::max<int64_t>(1, floats / row_floats));
  const Scratch packed_z(rows * row_floats);
  a.packed_z = packed_z.data();
  const int64_t tasks = k.tasks(a);
  const int64_t row_operations = a.channels * a.scale * a.scale * a.width * (a.rank + 4) / 16;
  for (a.row0 = begin; a.row0 < end; a.row0 += rows) {
    a.rows = std::min(rows, end - a.row0);
    parallel_tasks(a.rows, a.rank * a.width,
                   [&](int64_t first, int64_t last) { k.pack_rows(a, a.row0 + first, a.row0 + last); });
    f(tasks * a.rows, row_operations / tasks);
  }
}

// Cuts the backward into slices, which keep z and its gradient in the second-level cache, and groups, which bound the
// memory of the partial sums.
void cut(LowRankBwd& a) {
  const int64_t rows = a.channels * a.scale * a.scale, padded = std::max<int64_t>(1, a.padded_rank);
  const int64_t samples = a.batch * rows * a.height * a.width;
  const int64_t wanted_groups = std::clamp<int64_t>(samples >> 21, 16, 64);
  const int64_t image_rows = std::max<int64_t>(1, a.batch * a.height);
  a.slice_rows = std::clamp<int64_t>(65536 / std::max<int64_t>(1, a.width * padded), 1,
                                     (image_rows + wanted_groups - 1) / wanted_groups);
  a.slices_per_image = (a.height + a.slice_rows - 1) / a.slice_rows;
  const int64_t room = std::max<int64_t>(int64_t{2} << 20, samples / 8) / std::max<int64_t>(1, rows * padded);
  a.groups = std::clamp<int64_t>(std::min(wanted_groups, room), 1, std::max<int64_t>(1, a.batch * a.slices_per_image));
}

}  // namespace

Tensor lowrank_pixel_shuffle_fwd(Tensor z, Tensor weight, OptionalTensor bias, OptionalTensor gate, OptionalTensor skip,
                                 int64_t scale, int64_t bicubic, OptionalTensor out) {
  const Call call = check_call(z, weight, bias, gate, skip, scale, bicubic);
  const Tensor result = output_of(out, call.high, call.type);
  if (result.numel() == 0) return result;
  const LowRankFwdTable& k = lowrank_fwd_kernels(call.dtype);
  Forward forward(call, z, weight, bias, gate, skip);
  LowRankFwd& a = forward.a;
  a.out = result.mutable_data_ptr();

  const int64_t out_bytes = result.numel() * element_bytes(call.dtype);
  // Every row must begin on a cache line.
  a.stream = out_bytes >= kStreamBytes && reinterpret_cast<uintptr_t>(a.out) % 64 == 0 &&
             call.width * scale * element_bytes(call.dtype) % 64 == 0 && !without_pages(a.out, out_bytes);

  const PackedWeight packed(a, k);
  const int64_t floats = std::max<int64_t>(int64_t{1} << 18, out_bytes / 40 / 4);  // small beside the output
  forward_rows(a, k, 0, a.batch * a.height, floats, [&](int64_t tasks, int64_t operations) {
    parallel_tasks(tasks, operations, [&](int64_t begin, int64_t end) {
      const Scratch scratch(k.scratch(a));
      k.run(a, begin, end, scratch.data());
    });
  });
  return result;
}

Tensor lowrank_pixel_shuffle_stored(Tensor z, Tensor weight, OptionalTensor bias, OptionalTensor skip,
                                    OptionalTensor least, Tensor gain, int64_t scale, int64_t bicubic, int64_t first,
                                    int64_t last, Tensor out) {
  const Call call = check_call(z, weight, bias, std::nullopt, skip, scale, bicubic);
  STD_TORCH_CHECK(call.dtype == DType::f32, "z: expected float32");
  STD_TORCH_CHECK(call.skip != Skip::high, "skip: expected the low-resolution cube");
  STD_TORCH_CHECK(first >= 0 && first <= last && last <= call.height, "rows: expected 0 to ", call.height, ", got ",
                  first, " to ", last);
  check(gain, "gain", {call.channels}, call.type);
  if (least) check(*least, "least", {call.channels}, call.type);
  const ScalarType type = out.scalar_type();
  const bool is_signed = type == ScalarType::Short, integers = is_signed || type == ScalarType::UInt16;
  STD_TORCH_CHECK(integers || type == ScalarType::Float, "out: expected int16, uint16 or float32, got ",
                  torch::headeronly::toString(type));
  check(out, "out", {call.batch, call.channels, (last - first) * scale, call.width * scale}, type);
  STD_TORCH_CHECK(out.is_contiguous(), "out: expected a contiguous tensor");
  const float infinity = std::numeric_limits<float>::infinity();
  float extremes[2] = {infinity, -infinity};
  if (out.numel() > 0) {
    const Kernels& k = kernels();
    const LowRankFwdTable& table = k.lowrank_fwd;
    std::vector<float> gains = floats_of(gain);
    const std::vector<float> bounds = floats_of(least);
    for (size_t c = 0; c < bounds.size(); ++c)  // a bound that is NaN makes its channel NaN, which a maximum would lose
      if (std::isnan(bounds[c])) gains[c] = bounds[c];
    Forward forward(call, z, weight, bias, std::nullopt, skip);
    LowRankFwd& a = forward.a;
    a.out = out.mutable_data_ptr();
    a.first_row = first, a.out_rows = last - first;
    a.stored = {
        integers, gains.data(), data_or_null(bounds, least), is_signed ? -32768.f : 0.f, is_signed ? 32767.f : 65535.f,
        nullptr};
    const PackedWeight packed(a, table);
    std::vector<float> found;
    for (int64_t b = 0; b < call.batch; ++b)
      forward_rows(a, table, b * call.height + first, b * call.height + last, kStoredFloats,
                   [&](int64_t tasks, int64_t operations) {
                     found.resize(3 * tasks);
                     a.stored.extremes = found.data();
                     parallel_tasks(tasks, operations, [&](int64_t begin, int64_t end) {
                       const Scratch scratch(table.scratch(a));
                       k.lowrank_stored(a, begin, end, scratch.data());
                     });
                     for (int64_t task = 0; task < tasks; ++task) {
                       extremes[0] = std::min(extremes[0], found[3 * task]) + found[3 * task + 2];
                       extremes[1] = std::max(extremes[1], found[3 * task + 1]) + found[3 * task + 2];
                     }
                   });
    if (integers)
      for (float& value : extremes) value = std::nearbyint(value);
  }
  const Tensor result = empty_of({2}, ScalarType::Float);
  std::copy_n(extremes, 2, static_cast<float*>(result.mutable_data_ptr()));
  return result;
}

std::tuple<OptionalTensor, OptionalTensor, OptionalTensor, OptionalTensor, OptionalTensor> lowrank_pixel_shuffle_bwd(
    Tensor grad_out, Tensor z, Tensor weight, OptionalTensor bias, OptionalTensor gate, OptionalTensor skip,
    int64_t scale, int64_t bicubic, int64_t needs) {
  const Call call = check_call(z, weight, bias, gate, skip, scale, bicubic);
  check(grad_out, "grad_out", call.high, call.type);
  const auto wanted = [&](int bit) { return (needs >> bit & 1) != 0; };
  STD_TORCH_CHECK(!wanted(2) || bias, "needs: asks for the gradient of an absent bias");
  STD_TORCH_CHECK(!wanted(3) || gate, "needs: asks for the gradient of an absent gate");
  STD_TORCH_CHECK(!wanted(4) || call.skip == Skip::low, "needs: only a low-resolution skip has a gradient of its own");
  grad_out = dense(grad_out);
  OptionalTensor grad_z, grad_weight, grad_bias, grad_gate, grad_skip;
  if (wanted(0)) grad_z = empty_as(z);
  if (wanted(0) || wanted(1) || wanted(2) || wanted(3)) {
    const int64_t rows = call.channels * scale * scale;
    LowRankBwd a{};
    a.dtype = call.dtype;
    a.batch = call.batch, a.channels = call.channels, a.rank = call.rank;
    a.height = call.height, a.width = call.width, a.scale = static_cast<int>(scale);
    a.grad_out = grad_out.const_data_ptr();
    a.z = z.const_data_ptr();
    copy_strides(z, a.z_stride);
    a.padded_rank = whole_vectors(call.rank);
    const std::vector<float> weights = packed(floats_of(weight), rows, call.rank, false, a.padded_rank);
    const std::vector<float> bias_floats = floats_of(bias), gate_floats = floats_of(gate);
    a.weight = weights.data();
    a.bias = data_or_null(bias_floats, bias);
    a.gate = data_or_null(gate_floats, gate);
    if (grad_z) {
      a.grad_z = grad_z->mutable_data_ptr();
      copy_strides(*grad_z, a.grad_z_stride);
    }
    cut(a);
    const int64_t slices = call.batch * a.slices_per_image, layer = rows * a.padded_rank;
    const Scratch partial_weight(wanted(1) ? a.groups * layer : 0), partial_bias(wanted(2) ? a.groups * rows : 0);
    const Scratch partial_gate(wanted(3) ? slices * call.channels : 0);
    if (wanted(1)) a.partial_weight = partial_weight.data();
    if (wanted(2)) a.partial_bias = partial_bias.data();
    if (wanted(3)) a.partial_gate = partial_gate.data();

    const Kernels& k = kernels();
    const int64_t operations = rows * call.height * call.width * call.batch * (2 * call.rank + 1) / 8 / a.groups;
    parallel_tasks(a.groups, operations, [&](int64_t begin, int64_t end) {
      if (a.partial_weight) std::fill_n(a.partial_weight + begin * layer, (end - begin) * layer, 0.f);
      if (a.partial_bias) std::fill_n(a.partial_bias + begin * rows, (end - begin) * rows, 0.f);
      const Scratch scratch(k.lowrank_bwd_scratch(a));
      k.lowrank_bwd(a, begin, end, scratch.data());
    });
    if (wanted(1))
      grad_weight = tensor_of(sum_slices(a.partial_weight, a.groups, layer, rows, call.rank, a.padded_rank),
                              {rows, call.rank}, call.type);
    if (wanted(2)) grad_bias = tensor_of(sum_slices(a.partial_bias, a.groups, rows, 1, rows, rows), {rows}, call.type);
    if (wanted(3))
      grad_gate = tensor_of(sum_slices(a.partial_gate, a.slices_per_image, call.channels, call.batch, call.channels,
                                       a.slices_per_image * call.channels),
                            {call.batch, call.channels}, call.type);
  }
  if (wanted(4)) grad_skip = bicubic_skip_grad(grad_out, *skip, scale, call.convention);
  return {grad_z, grad_weight, grad_bias, grad_gate, grad_skip};
}

}  // namespace lkca::cpu
