// What the CUDA backend offers, free of torch and CUDA headers. Every function enqueues on `stream` and
// returns nullptr or the error as text. Tensors are contiguous, on the stream's device; `nullptr` stands for
// an absent one. Nothing here allocates: callers pass `workspace`, floats, of the size the function beside
// it states. No atomics, so results never depend on scheduling.
#pragma once

#include <cstdint>

#include "../common/bicubic.h"

namespace lkca::cuda {

using Stream = void*;  // cudaStream_t

enum class Dtype { float32, float16, bfloat16 };
using lkca::Bicubic;

/// Shape of a shuffled cube: (batch, channels, scale*height, scale*width), 2 <= scale <= 64.
struct ShuffleProblem {
  Dtype dtype;
  int64_t batch, channels, height, width, scale;
};

/// Why the kernels cannot serve a shape (int32 coordinates within a row or a tile), or nullptr.
const char* shuffle_refusal(int64_t channels, int64_t rank, int64_t height, int64_t width, int64_t scale);

struct LowrankInputs {
  const void *z, *weight, *bias, *gate, *skip;
  int64_t rank;
  bool low_res_skip;  // skip is (B, C, h, w), not (B, C, scale*h, scale*w)
  Bicubic bicubic;
};
const char* lowrank_forward(const ShuffleProblem& shape, const LowrankInputs& in, void* out, Stream stream);

/// Gradients that are wanted are not null. HR gradient read once for z, once for the other three.
struct LowrankGradients {
  void *z, *weight, *bias, *gate;
};
int64_t lowrank_backward_workspace(const ShuffleProblem& shape, int64_t rank);
const char* lowrank_backward(const ShuffleProblem& shape, const LowrankInputs& in, const void* grad_out,
                             const LowrankGradients& grad, float* workspace, Stream stream);

const char* epilogue_forward(const ShuffleProblem& shape, const void* y, const void* gate, const void* skip,
                             bool low_res_skip, Bicubic bicubic, void* out, Stream stream);
int64_t epilogue_backward_workspace(const ShuffleProblem& shape);
const char* epilogue_backward(const ShuffleProblem& shape, const void* grad_out, const void* y, const void* gate,
                              void* grad_y, void* grad_gate, float* workspace, Stream stream);

/// Gradient of the LR skip: the adjoint of the bicubic upsampling.
const char* skip_backward(const ShuffleProblem& shape, Bicubic bicubic, const void* grad_out, void* grad_skip,
                          Stream stream);

/// x (batch, channels, pixels), w1 (hidden, channels), b1 (hidden), w2 (channels, hidden), b2 (channels).
struct AttentionProblem {
  Dtype dtype;
  int64_t batch, channels, hidden, pixels;
};
const char* attention_refusal(int64_t channels, int64_t hidden);

struct AttentionLayers {
  const void *w1, *b1, *w2, *b2;
};
int64_t attention_workspace(const AttentionProblem& shape);
/// gate (batch, channels), mean of x over the pixels (batch, channels).
const char* gate_forward(const AttentionProblem& shape, const void* x, const AttentionLayers& layers, void* gate,
                         float* mean, float* workspace, Stream stream);
/// out = x * gate (+ residual).
const char* attention_forward(const AttentionProblem& shape, const void* x, const AttentionLayers& layers,
                              const void* residual, void* out, float* mean, float* workspace, Stream stream);

/// Gradients that are wanted are not null.
struct AttentionGradients {
  void *x, *w1, *b1, *w2, *b2;
};
int64_t attention_backward_workspace(const AttentionProblem& shape);
/// x null: grad_out is (batch, channels), the gradient of the gate; else of x's shape, that of x * gate.
const char* attention_backward(const AttentionProblem& shape, const void* grad_out, const void* x, const float* mean,
                               const AttentionLayers& layers, const AttentionGradients& grad, float* workspace,
                               Stream stream);

/// x (batch, channels, height, width), w1 (hidden, channels), w2 (channels, hidden); window odd, any width.
struct LocalAttentionProblem {
  Dtype dtype;
  int64_t batch, channels, hidden, height, width, window;
};
struct LocalAttentionInputs {
  const void *x, *w1, *w2;
};
int64_t local_attention_workspace(const LocalAttentionProblem& shape);
const char* local_attention_forward(const LocalAttentionProblem& shape, const LocalAttentionInputs& in,
                                    const void* residual, void* out, float* workspace, Stream stream);

/// Gradients that are wanted are not null.
struct LocalAttentionGradients {
  void *x, *w1, *w2;
};
int64_t local_attention_backward_workspace(const LocalAttentionProblem& shape);
const char* local_attention_backward(const LocalAttentionProblem& shape, const LocalAttentionInputs& in,
                                     const void* grad_out, const LocalAttentionGradients& grad, float* workspace,
                                     Stream stream);

}  // namespace lkca::cuda
