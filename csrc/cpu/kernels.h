// What the instruction-set variants share: plain argument blocks and one table of functions per variant.
//
// Each variant is one translation unit (kernels_<isa>.cpp) that compiles the same templates (kernels_impl.h) on its own
// vector type. Such a unit includes only intrinsics and headers without inline functions of external linkage: a
// std::vector member compiled there with AVX-512 could be the copy the linker keeps for every processor.
#pragma once

#include <cstdint>

#include "common/bicubic.h"

namespace lkca::cpu {

enum class DType : int { f32, bf16, f16 };
enum class Skip : int { none, high, low };

// A result as a file stores it: bounded below by least, times gain; 16-bit integers are rounded to even and end at low
// and high. extremes: of each task, the least and the largest product, and 0, or NaN where one is not finite.
struct Stored {
  bool integers;       // else fp32
  const float* gain;   // [channels]
  const float* least;  // [channels] or null
  float low, high;
  float* extremes;  // [task][3]
};

struct BicubicTable {
  int scale;
  Bicubic convention;
  const BicubicTaps* taps;  // [scale]
};

// out[b, c, y*s+i, x*s+j] = gate[b, c] * (sum_r W[m, r] z[b, r, y, x] + bias[m]) + skip, m = (c*s + i)*s + j.
// Pointers to storage are in the call's dtype; float pointers are packed fp32 copies.
struct LowRankFwd {
  DType dtype;
  int64_t batch, channels, rank, height, width;
  int scale;
  const void* z;
  int64_t z_stride[4];  // b, r, y, x in elements
  const void* weight;   // (channels * s^2, rank), contiguous
  const float* bias;    // (channels * s^2) or null
  const float* gate;    // (batch, channels) or null
  Skip skip_kind;
  const void* skip;  // contiguous
  BicubicTable bicubic;
  void* out;                    // contiguous
  bool stream;                  // non-temporal stores
  int64_t first_row, out_rows;  // of each image, the rows of pixels that out holds
  Stored stored;                // lowrank_stored alone
  // Filled by the driver from the variant's plan:
  float* packed_weight;
  float* packed_z;
  int64_t row0;  // first of the rows (b * height + y) held by packed_z
  int64_t rows;  // their number
};

struct LowRankBwd {
  DType dtype;
  int64_t batch, channels, rank, height, width;
  int scale;
  const void* grad_out;  // contiguous
  const void* z;
  int64_t z_stride[4];
  const float* weight;  // [m][padded_rank], zero padded
  const float* bias;    // or null
  const float* gate;    // or null
  int64_t padded_rank;
  // Work is cut into slices (one b, slice_rows rows of y); a group is a run of slices that share one partial sum. Both
  // depend on shapes only, so that sums come out the same with any number of threads.
  int64_t slice_rows, slices_per_image, groups;
  void* grad_z;  // contiguous or channels_last: grad_z_stride
  int64_t grad_z_stride[4];
  float* partial_weight;  // [group][m][padded_rank] or null
  float* partial_bias;    // [group][m] or null
  float* partial_gate;    // [slice][channels] or null
};

// out[b, c, y*s+i, x*s+j] = gate[b, c] * y[b, m, y, x] + skip; backward reads grad_out and writes grad_y.
struct Epilogue {
  DType dtype;
  int64_t batch, channels, height, width;
  int scale;
  const void* y;
  int64_t y_stride[4];
  const float* gate;
  Skip skip_kind;
  const void* skip;
  BicubicTable bicubic;
  void* out;
  const void* grad_out;
  void* grad_y;  // or null
  int64_t grad_y_stride[4];
  float* partial_gate;  // [batch * channels][height], or null
};

// Adjoint of bicubic upsampling: grad_low (planes, height, width) from grad_out (planes, height*s, width*s).
struct BicubicBwd {
  DType dtype;
  int64_t planes, height, width;
  BicubicTable bicubic;
  const void* grad_out;
  void* grad_low;
};

// x as (outer, pixels, inner): contiguous has inner = 1 and outer = batch * channels, channels_last has
// outer = batch and inner = channels. Pixels are cut into `chunks` runs of chunk_pixels for fixed-order sums.
struct ChannelArgs {
  DType dtype;
  int64_t outer, pixels, inner;
  int64_t chunks, chunk_pixels;
  const void* x;
  const void* y;       // second factor of the sum (grad_out), or null
  float* partial;      // [outer][chunks][inner]
  int64_t period;      // inner, or that of a few pixels, as many floats as whole vectors
  const float* scale;  // [outer][period], or null
  const float* shift;  // [outer][period], or null
  const void* addend;  // like x, or null
  void* out;           // out = x * scale + shift + addend; x null: out = shift
};

// out = f(x) + residual, f of a few rows and two layers from channels to hidden ones and back, by strips of columns. A
// pixel takes `lanes` floats for its channels and `fields` for its hidden ones: whole vectors.
struct Strips {
  DType dtype;
  int64_t batch, channels, hidden, height, width;
  int64_t lanes, fields;
  const void* x;
  int64_t x_stride[4];
  const void* residual;  // or null
  int64_t residual_stride[4];
  void* out;
  int64_t out_stride[4];
  int64_t strip;  // columns worked on at a time; sums do not depend on it
  // Backward. Partial sums are per slice: (b, strip, slice_rows rows), so cut by shapes only.
  int64_t slice_rows;
  const void* grad_out;
  int64_t grad_out_stride[4];
  void* grad_x;  // or null
  int64_t grad_x_stride[4];
};

// out = x * 2 sigmoid(w2 . relu(w1 . a / (mean a + eps))) + residual, a the mean of |x| over a window of 2 * reach + 1.
// The fields are hidden + 1 mixed magnitudes.
struct LocalAttention : Strips {
  int64_t reach_y, reach_x;  // below the size of the image
  float eps;
  bool planar;      // forward: the pixels of a row are consecutive in every tensor
  const float* w1;  // [channels][fields]: field k is hidden channel k, field `hidden` the mean over the channels
  const float* w2;  // [hidden][lanes]
  // Backward.
  const float* w1_back;  // [hidden + 1][lanes]
  const float* w2_back;  // [channels][fields]
  float* partial_w1;     // [slice][hidden, in eights][lanes] or null
  float* partial_w2;     // the same, of the transpose
};

// out = w2 . relu(w1 . (depthwise * x)) + residual, the kernel about its middle, zeros beyond the image.
struct LargeKernel : Strips {
  int64_t kernel_y, kernel_x;  // odd
  const float* depthwise;      // [kernel_y][kernel_x][lanes]
  const float* w1;             // [channels][fields]
  const float* w2;             // [hidden][lanes]
  // Backward.
  const float* flipped;      // [kernel_y][kernel_x][lanes]: the depthwise kernel, turned by half a turn
  const float* w1_back;      // [hidden][lanes]
  const float* w2_back;      // [channels][fields]
  float* partial_depthwise;  // [slice][kernel_y][kernel_x][lanes] or null
  float* partial_w1;         // [slice][fields][lanes] or null
  float* partial_w2;         // the same, of the transpose
};

// Work items are [begin, end); scratch is the caller's, 64-byte aligned, of as many floats as the table says.
struct LowRankFwdTable {
  int64_t (*weight_groups)(const LowRankFwd&);        // into which the rows of W are packed
  int64_t (*weight_group_floats)(const LowRankFwd&);  // of one
  int64_t (*packed_row_floats)(const LowRankFwd&);
  int64_t (*tasks)(const LowRankFwd&);  // per row of pixels
  int64_t (*scratch)(const LowRankFwd&);
  void (*pack_weight)(const LowRankFwd&, int64_t begin, int64_t end);          // groups
  void (*pack_rows)(const LowRankFwd&, int64_t begin, int64_t end);            // b * height + y
  void (*run)(const LowRankFwd&, int64_t begin, int64_t end, float* scratch);  // task * rows + row
};

struct LargeKernelFwdTable {
  int64_t (*scratch)(const LargeKernel&);
  void (*run)(const LargeKernel&, int64_t begin, int64_t end,
              float* scratch);  // (b * strips + strip) * height + y
};

struct Kernels {
  int64_t lanes;
  LowRankFwdTable lowrank_fwd;
  void (*lowrank_stored)(const LowRankFwd&, int64_t begin, int64_t end, float* scratch);  // as its run; fp32, no gate
  int64_t (*lowrank_bwd_scratch)(const LowRankBwd&);
  void (*lowrank_bwd)(const LowRankBwd&, int64_t begin, int64_t end, float* scratch);  // groups
  int64_t (*epilogue_scratch)(const Epilogue&);
  void (*epilogue_fwd)(const Epilogue&, int64_t begin, int64_t end,
                       float* scratch);  // (b * channels + c) * height + y
  void (*epilogue_bwd)(const Epilogue&, int64_t begin, int64_t end, float* scratch);
  int64_t (*bicubic_bwd_scratch)(const BicubicBwd&);
  void (*bicubic_bwd)(const BicubicBwd&, int64_t begin, int64_t end, float* scratch);  // planes
  void (*channel_sum)(const ChannelArgs&, int64_t begin, int64_t end);                 // outer * chunks
  void (*channel_apply)(const ChannelArgs&, int64_t begin, int64_t end);               // outer * chunks
  int64_t (*local_scratch)(const LocalAttention&);
  void (*local_fwd)(const LocalAttention&, int64_t begin, int64_t end,
                    float* scratch);  // (b * strips + strip) * height + y
  void (*local_bwd)(const LocalAttention&, int64_t begin, int64_t end, float* scratch);  // slices
  LargeKernelFwdTable large_kernel_fwd;
  int64_t (*large_kernel_bwd_scratch)(const LargeKernel&);
  void (*large_kernel_bwd)(const LargeKernel&, int64_t begin, int64_t end, float* scratch);  // slices
};

extern const Kernels kernels_generic;
#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#define LKCA_CPU_X86 1
extern const Kernels kernels_avx2;
extern const Kernels kernels_avx512;
extern const LowRankFwdTable lowrank_fwd_avx512_amx;  // these for bf16, beside kernels_avx512
extern const LowRankFwdTable lowrank_fwd_avx512_bf16;
extern const LargeKernelFwdTable large_kernel_fwd_avx512_bf16;
#endif

}  // namespace lkca::cpu
