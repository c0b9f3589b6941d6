// Channel attention: gate = sigmoid(w2 relu(w1 mean(x) + b1) + b2); out = x * gate (+ residual); and the gradients.
//
// x is read once for the means, in parts of a plane summed in a fixed order, and once for the product; the gate in
// between costs no launch of its own, since every block of the second kernel computes it anew from the means
// (hidden * channels multiplications, against at least 8192 elements of x).
#include <cmath>

#include "api.h"
#include "dispatch.h"
#include "tile.h"

namespace lkca::cuda {
namespace {

/// How planes are cut into parts: at most 16 a plane, of at least 8192 elements.
struct Planes {
  int64_t batch = 0, channels = 0, pixels = 0, part = 1, parts = 0;

  Planes() = default;
  explicit Planes(const AttentionProblem& shape)
      : batch(shape.batch),
        channels(shape.channels),
        pixels(shape.pixels),
        part(larger<int64_t>(8192, ceil_div(ceil_div(shape.pixels, 16), 8) * 8)),
        parts(ceil_div(shape.pixels, part)) {}
  LKCA_HD int64_t count() const { return batch * channels; }
};

/// One part of a plane; f(offset in x) for every V elements of it.
struct Part {
  int64_t plane, begin, end;

  LKCA_BODY Part(const Planes& planes, int64_t work)
      : plane(work / planes.parts),
        begin(work % planes.parts * planes.part),
        end(smaller(planes.pixels, begin + planes.part)) {}

  template <int V, class Grid, class F>
  LKCA_BODY void for_each(const Grid& grid, const Planes& planes, F f) const {
    for (int64_t i = begin + grid.thread() * V; i < end; i += kThreads * V) f(plane * planes.pixels + i);
  }
};

// ---- sums over planes -----------------------------------------------------------------------------------------
template <class T>
struct PlaneSums {
  static constexpr int threads = kThreads, min_blocks = 4;

  struct Args {
    Planes planes;
    const T *x, *other;
    float* sum;  // (planes, parts): of x, or of x * other where other is not null
    bool vec;
  };

  static int64_t blocks(const Args& args) { return args.planes.count() * args.planes.parts; }
  static int64_t shared_bytes(const Args&) { return kWarps * sizeof(float); }

  template <class Grid>
  LKCA_BODY static void run(const Grid& grid, const Args& args, unsigned char* shared) {
    auto* const room = reinterpret_cast<float*>(shared);
    for (int64_t work = grid.block(); work < args.planes.count() * args.planes.parts; work += grid.blocks()) {
      const Part part(args.planes, work);
      float sum = 0.0f;
      const auto visit = [&](auto width) {
        constexpr int V = decltype(width)::value;
        part.template for_each<V>(grid, args.planes, [&](int64_t at) {
          float x[V], other[V];
          load_elements(args.x + at, x);
          if (args.other != nullptr) load_elements(args.other + at, other);
          LKCA_UNROLL
          for (int e = 0; e < V; ++e) sum += args.other != nullptr ? x[e] * other[e] : x[e];
        });
      };
      if (args.vec) {
        visit(Constant<kVec<T>>{});
      } else {
        visit(Constant<1>{});
      }
      sum = block_sum(grid, sum, room);
      if (grid.thread() == 0) store(args.sum + work, sum);
    }
  }
};

// ---- the two layers ----------------------------------------------------------------------------------------------
template <class T>
struct Layers {
  const T *w1, *b1, *w2, *b2;
  int64_t hidden;
  const float* sums;  // (planes, parts), whose total over the parts divided by `divisor` is the mean of the plane
  int64_t parts;
  float divisor;

  LKCA_HD static int64_t floats(int64_t channels, int64_t hidden) { return channels + hidden; }

  /// mean (channels) and relu(w1 mean + b1) (hidden) into shared memory, for all threads. A thread may still read its
  /// own means, and `active`, from a batch element before.
  template <class Grid>
  LKCA_BODY void hidden_layer(const Grid& grid, const Planes& planes, int64_t batch, float* mean, float* active) const {
    for (int64_t c = grid.thread(); c < planes.channels; c += kThreads) {
      float sum = 0.0f;
      for (int64_t p = 0; p < parts; ++p) sum += load(sums + (batch * planes.channels + c) * parts + p);
      mean[c] = sum / divisor;
    }
    grid.sync();
    for (int64_t k = grid.thread() / 32; k < hidden; k += kWarps) {
      float sum = 0.0f;
      for (int64_t c = grid.thread() % 32; c < planes.channels; c += 32) {
        sum += to_float(load(w1 + k * planes.channels + c)) * mean[c];
      }
      sum = grid.warp_sum(sum) + to_float(load(b1 + k));
      if (grid.thread() % 32 == 0) active[k] = sum > 0.0f || sum != sum ? sum : 0.0f;  // NaN passes, as in torch
    }
    grid.sync();
  }

  /// Gate of channel c, one thread's work.
  LKCA_BODY float gate(int64_t c, const float* active) const {
    float sum = to_float(load(b2 + c));
    for (int64_t k = 0; k < hidden; ++k) sum += to_float(load(w2 + c * hidden + k)) * active[k];
    return 1.0f / (1.0f + expf(-sum));
  }
};

template <class T>
struct Gate {
  static constexpr int threads = kThreads, min_blocks = 2;

  struct Args {
    Planes planes;
    Layers<T> layers;
    T* gate;
    float* mean;
  };

  static int64_t blocks(const Args& args) { return args.planes.batch; }
  static int64_t shared_bytes(const Args& args) {
    return Layers<T>::floats(args.planes.channels, args.layers.hidden) * int64_t{sizeof(float)};
  }

  template <class Grid>
  LKCA_BODY static void run(const Grid& grid, const Args& args, unsigned char* shared) {
    auto* const mean = reinterpret_cast<float*>(shared);
    float* const active = mean + args.planes.channels;
    for (int64_t batch = grid.block(); batch < args.planes.batch; batch += grid.blocks()) {
      args.layers.hidden_layer(grid, args.planes, batch, mean, active);
      for (int64_t c = grid.thread(); c < args.planes.channels; c += kThreads) {
        store(args.gate + batch * args.planes.channels + c, from_float<T>(args.layers.gate(c, active)));
        store(args.mean + batch * args.planes.channels + c, mean[c]);
      }
    }
  }
};

template <class T>
struct Scale {
  static constexpr int threads = kThreads, min_blocks = 4;

  struct Args {
    Planes planes;
    Layers<T> layers;
    const T *x, *residual;
    T* out;
    float* mean;
    bool vec;
  };

  static int64_t blocks(const Args& args) { return args.planes.count() * args.planes.parts; }
  static int64_t shared_bytes(const Args& args) {
    return (Layers<T>::floats(args.planes.channels, args.layers.hidden) + 1) * int64_t{sizeof(float)};
  }

  template <class Grid>
  LKCA_BODY static void run(const Grid& grid, const Args& args, unsigned char* shared) {
    auto* const mean = reinterpret_cast<float*>(shared);
    float* const active = mean + args.planes.channels;
    float* const gate = active + args.layers.hidden;
    for (int64_t work = grid.block(); work < args.planes.count() * args.planes.parts; work += grid.blocks()) {
      const Part part(args.planes, work);
      const int64_t batch = part.plane / args.planes.channels;
      args.layers.hidden_layer(grid, args.planes, batch, mean, active);
      if (grid.thread() == 0) {
        const int64_t channel = part.plane - batch * args.planes.channels;
        *gate = args.layers.gate(channel, active);
        if (part.begin == 0) store(args.mean + part.plane, mean[channel]);
      }
      grid.sync();
      const float factor = *gate;
      const auto visit = [&](auto width) {
        constexpr int V = decltype(width)::value;
        part.template for_each<V>(grid, args.planes, [&](int64_t at) {
          float x[V], added[V];
          load_elements(args.x + at, x);
          if (args.residual != nullptr) load_elements(args.residual + at, added);
          LKCA_UNROLL
          for (int e = 0; e < V; ++e) x[e] = factor * x[e] + (args.residual != nullptr ? added[e] : 0.0f);
          store_elements(args.out + at, x);
        });
      };
      if (args.vec) {
        visit(Constant<kVec<T>>{});
      } else {
        visit(Constant<1>{});
      }
    }
  }
};

// ---- backward -------------------------------------------------------------------------------------------------------
/// Floats that the backward keeps between its launches, each of `batch` rows.
struct BackwardRooms {
  float* product;                        // (planes, parts)
  float *logit_grad, *gate, *pool_grad;  // (batch, channels); pool_grad: what each pixel receives through the mean
  float *active, *hidden_grad;           // (batch, hidden)

  BackwardRooms() = default;
  BackwardRooms(const Planes& planes, int64_t hidden, float* workspace) {
    float** const rooms[] = {&product, &logit_grad, &gate, &pool_grad, &active, &hidden_grad};
    for (int i = 0; i < 6; ++i) {
      *rooms[i] = workspace;
      workspace += i < 1 ? planes.count() * planes.parts : planes.batch * (i < 4 ? planes.channels : hidden);
    }
  }
  static int64_t floats(const Planes& planes, int64_t hidden) {
    return planes.count() * planes.parts + planes.batch * (3 * planes.channels + 2 * hidden);
  }
};

template <class T>
struct LayersBackward {
  static constexpr int threads = kThreads, min_blocks = 2;

  struct Args {
    Planes planes;
    Layers<T> layers;
    BackwardRooms rooms;
    const T* grad_gate;  // (batch, channels), or null: the sums of rooms.product
  };

  static int64_t blocks(const Args& args) { return args.planes.batch; }
  static int64_t shared_bytes(const Args& args) {
    return 2 * Layers<T>::floats(args.planes.channels, args.layers.hidden) * int64_t{sizeof(float)};
  }

  template <class Grid>
  LKCA_BODY static void run(const Grid& grid, const Args& args, unsigned char* shared) {
    const int64_t channels = args.planes.channels, hidden = args.layers.hidden;
    auto* const mean = reinterpret_cast<float*>(shared);
    float* const active = mean + channels;
    float* const logit_grad = active + hidden;
    float* const hidden_grad = logit_grad + channels;
    for (int64_t batch = grid.block(); batch < args.planes.batch; batch += grid.blocks()) {
      args.layers.hidden_layer(grid, args.planes, batch, mean, active);
      for (int64_t c = grid.thread(); c < channels; c += kThreads) {
        const int64_t plane = batch * channels + c;
        float grad = 0.0f;
        if (args.grad_gate != nullptr) {
          grad = to_float(load(args.grad_gate + plane));
        } else {
          for (int64_t p = 0; p < args.planes.parts; ++p)
            grad += load(args.rooms.product + plane * args.planes.parts + p);
        }
        const float gate = args.layers.gate(c, active);
        logit_grad[c] = grad * gate * (1.0f - gate);
        store(args.rooms.gate + plane, gate);
        store(args.rooms.logit_grad + plane, logit_grad[c]);
      }
      grid.sync();
      for (int64_t k = grid.thread(); k < hidden; k += kThreads) {
        float sum = 0.0f;
        for (int64_t c = 0; c < channels; ++c) sum += to_float(load(args.layers.w2 + c * hidden + k)) * logit_grad[c];
        hidden_grad[k] = active[k] <= 0.0f ? 0.0f : sum;  // NaN passes, as in torch
        store(args.rooms.active + batch * hidden + k, active[k]);
        store(args.rooms.hidden_grad + batch * hidden + k, hidden_grad[k]);
      }
      grid.sync();
      for (int64_t c = grid.thread(); c < channels; c += kThreads) {
        float sum = 0.0f;
        for (int64_t k = 0; k < hidden; ++k) sum += to_float(load(args.layers.w1 + k * channels + c)) * hidden_grad[k];
        store(args.rooms.pool_grad + batch * channels + c, sum / static_cast<float>(args.planes.pixels));
      }
    }
  }
};

/// Sums over the batch: dw1 = hidden_grad x mean, db1 = hidden_grad, dw2 = logit_grad x active, db2 = logit_grad.
template <class T>
struct LayersWeightGradients {
  static constexpr int threads = kThreads, min_blocks = 2;

  struct Args {
    BackwardRooms rooms;
    const float* mean;
    int64_t batch, channels, hidden;
    T *w1, *b1, *w2, *b2;  // or null
  };

  static int64_t blocks(const Args& args) {
    return ceil_div(2 * args.channels * args.hidden + args.channels + args.hidden, kThreads);
  }
  static int64_t shared_bytes(const Args&) { return 0; }

  template <class Grid>
  LKCA_BODY static void run(const Grid& grid, const Args& args, unsigned char*) {
    const int64_t channels = args.channels, hidden = args.hidden, weights = channels * hidden;
    const auto put = [&](T* out, int64_t at, const float* left, int64_t i, int64_t lefts, const float* right, int64_t j,
                         int64_t rights) {
      if (out == nullptr) return;
      float total = 0.0f;
      for (int64_t b = 0; b < args.batch; ++b) {
        total += load(left + b * lefts + i) * (right == nullptr ? 1.0f : load(right + b * rights + j));
      }
      store(out + at, from_float<T>(total));
    };
    const int64_t count = 2 * weights + channels + hidden;
    for (int64_t index = grid.block() * kThreads + grid.thread(); index < count; index += grid.blocks() * kThreads) {
      if (index < weights) {
        const int64_t k = index / channels, c = index - k * channels;
        put(args.w1, index, args.rooms.hidden_grad, k, hidden, args.mean, c, channels);
      } else if (index < 2 * weights) {
        const int64_t at = index - weights, c = at / hidden, k = at - c * hidden;
        put(args.w2, at, args.rooms.logit_grad, c, channels, args.rooms.active, k, hidden);
      } else if (index < 2 * weights + hidden) {
        const int64_t k = index - 2 * weights;
        put(args.b1, k, args.rooms.hidden_grad, k, hidden, nullptr, 0, 0);
      } else {
        const int64_t c = index - 2 * weights - hidden;
        put(args.b2, c, args.rooms.logit_grad, c, channels, nullptr, 0, 0);
      }
    }
  }
};

/// dx = grad_out * gate + pool_grad; without grad_out, which is then the gate's, pool_grad alone.
template <class T>
struct AttentionInputGradient {
  static constexpr int threads = kThreads, min_blocks = 4;

  struct Args {
    Planes planes;
    const T* grad_out;  // or null
    const float *gate, *pool_grad;
    T* grad_x;
    bool vec;
  };

  static int64_t blocks(const Args& args) { return args.planes.count() * args.planes.parts; }
  static int64_t shared_bytes(const Args&) { return 0; }

  template <class Grid>
  LKCA_BODY static void run(const Grid& grid, const Args& args, unsigned char*) {
    for (int64_t work = grid.block(); work < args.planes.count() * args.planes.parts; work += grid.blocks()) {
      const Part part(args.planes, work);
      const float gate = load(args.gate + part.plane), added = load(args.pool_grad + part.plane);
      const auto visit = [&](auto width) {
        constexpr int V = decltype(width)::value;
        part.template for_each<V>(grid, args.planes, [&](int64_t at) {
          float value[V];
          if (args.grad_out != nullptr) load_elements(args.grad_out + at, value);
          LKCA_UNROLL
          for (int e = 0; e < V; ++e) value[e] = args.grad_out != nullptr ? gate * value[e] + added : added;
          store_elements(args.grad_x + at, value);
        });
      };
      if (args.vec) {
        visit(Constant<kVec<T>>{});
      } else {
        visit(Constant<1>{});
      }
    }
  }
};

// ---- launches
// ---------------------------------------------------------------------------------------------------------
template <class T>
Layers<T> layers_of(const AttentionProblem& shape, const AttentionLayers& in, const float* sums, int64_t parts,
                    int64_t divisor) {
  return {static_cast<const T*>(in.w1),
          static_cast<const T*>(in.b1),
          static_cast<const T*>(in.w2),
          static_cast<const T*>(in.b2),
          shape.hidden,
          sums,
          parts,
          static_cast<float>(divisor)};
}

template <class T>
const char* plane_sums(const Planes& planes, const void* x, const void* other, float* sum, Stream stream) {
  const bool vec = vectors<T>(x, planes.pixels) && vectors<T>(other, planes.pixels);
  const typename PlaneSums<T>::Args args{planes, static_cast<const T*>(x), static_cast<const T*>(other), sum, vec};
  return launch<PlaneSums<T>>(args, stream);
}

template <class T>
const char* backward(const AttentionProblem& shape, const void* grad_out, const void* x, const float* mean,
                     const AttentionLayers& in, const AttentionGradients& grad, float* workspace, Stream stream) {
  const Planes planes(shape);
  const BackwardRooms rooms(planes, shape.hidden, workspace);
  const auto* g = static_cast<const T*>(grad_out);
  const char* error = nullptr;
  if (x != nullptr) error = plane_sums<T>(planes, x, grad_out, rooms.product, stream);
  if (error != nullptr) return error;
  const typename LayersBackward<T>::Args layers{planes, layers_of<T>(shape, in, mean, 1, 1), rooms,
                                                x == nullptr ? g : nullptr};
  if ((error = launch<LayersBackward<T>>(layers, stream)) != nullptr) return error;
  if (grad.w1 != nullptr || grad.b1 != nullptr || grad.w2 != nullptr || grad.b2 != nullptr) {
    const typename LayersWeightGradients<T>::Args weights{rooms,
                                                          mean,
                                                          shape.batch,
                                                          shape.channels,
                                                          shape.hidden,
                                                          static_cast<T*>(grad.w1),
                                                          static_cast<T*>(grad.b1),
                                                          static_cast<T*>(grad.w2),
                                                          static_cast<T*>(grad.b2)};
    if ((error = launch<LayersWeightGradients<T>>(weights, stream)) != nullptr) return error;
  }
  if (grad.x == nullptr) return nullptr;
  const T* const through = x == nullptr ? nullptr : g;
  const typename AttentionInputGradient<T>::Args input{
      planes,
      through,
      rooms.gate,
      rooms.pool_grad,
      static_cast<T*>(grad.x),
      vectors<T>(grad.x, planes.pixels) && vectors<T>(through, planes.pixels)};
  return launch<AttentionInputGradient<T>>(input, stream);
}

}  // namespace

const char* attention_refusal(int64_t channels, int64_t hidden) {
  // two copies of both vectors, floats, must fit in 99 KB of shared memory: what every card since sm_80 gives a block
  return channels + hidden > 12672 ? "channels + hidden channels must not exceed 12672" : nullptr;
}

int64_t attention_workspace(const AttentionProblem& shape) {
  const Planes planes(shape);
  return planes.count() * planes.parts;
}

int64_t attention_backward_workspace(const AttentionProblem& shape) {
  return BackwardRooms::floats(Planes(shape), shape.hidden);
}

const char* gate_forward(const AttentionProblem& shape, const void* x, const AttentionLayers& layers, void* gate,
                         float* mean, float* workspace, Stream stream) {
  if (const char* why = attention_refusal(shape.channels, shape.hidden)) return why;
  const Planes planes(shape);
  return dispatch(shape.dtype, [&](auto t) {
    using T = decltype(t);
    if (const char* error = plane_sums<T>(planes, x, nullptr, workspace, stream)) return error;
    const typename Gate<T>::Args args{planes, layers_of<T>(shape, layers, workspace, planes.parts, planes.pixels),
                                      static_cast<T*>(gate), mean};
    return launch<Gate<T>>(args, stream);
  });
}

const char* attention_forward(const AttentionProblem& shape, const void* x, const AttentionLayers& layers,
                              const void* residual, void* out, float* mean, float* workspace, Stream stream) {
  if (const char* why = attention_refusal(shape.channels, shape.hidden)) return why;
  const Planes planes(shape);
  return dispatch(shape.dtype, [&](auto t) {
    using T = decltype(t);
    if (const char* error = plane_sums<T>(planes, x, nullptr, workspace, stream)) return error;
    const typename Scale<T>::Args args{
        planes,
        layers_of<T>(shape, layers, workspace, planes.parts, planes.pixels),
        static_cast<const T*>(x),
        static_cast<const T*>(residual),
        static_cast<T*>(out),
        mean,
        vectors<T>(x, planes.pixels) && vectors<T>(out, planes.pixels) && vectors<T>(residual, planes.pixels)};
    return launch<Scale<T>>(args, stream);
  });
}

const char* attention_backward(const AttentionProblem& shape, const void* grad_out, const void* x, const float* mean,
                               const AttentionLayers& layers, const AttentionGradients& grad, float* workspace,
                               Stream stream) {
  if (const char* why = attention_refusal(shape.channels, shape.hidden)) return why;
  return dispatch(shape.dtype, [&](auto t) {
    return backward<decltype(t)>(shape, grad_out, x, mean, layers, grad, workspace, stream);
  });
}

}  // namespace lkca::cuda
