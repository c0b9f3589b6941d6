// Local channel attention: gates from the mean magnitudes in a window around each pixel. With u = |x|, P the mean over
// the window's pixels inside the image, and per pixel
//   q = w1 u, m = mean_C(u), r = P q / (P m + eps), gate = 2 sigmoid(w2 relu(r)), out = x * gate (+ residual)
// the K + 1 rows of q and m, the fields of a pixel, are made first (w1 and P commute) and pooled: (B, K + 1, H, W) in
// float, which stays in L2 for usual sizes. Backward, from d_logit = grad * x * gate * (1 - gate / 2):
//   d_r = w2^T d_logit where r > 0, d_q = P^T (d_r / (P m + eps)), d_m = P^T (-sum_K(d_r r) / (P m + eps)),
//   dx = grad * gate + sign(x) (w1^T d_q + d_m / C), dw1 = sum d_q u^T, dw2 = sum d_logit relu(r)^T.
//
// q is a product of x and w1 as they are stored (16-bit types: tensor cores); whatever follows is float.
#include "api.h"
#include "dispatch.h"
#include "local_attention_bwd.h"
#include "local_attention_fields.h"

namespace lkca::cuda {
namespace {

// ---- forward ------------------------------------------------------------------------------------------------------
template <class T>
struct LocalApply {
  static constexpr int threads = kThreads, min_blocks = 2;

  struct Args {
    Local local;
    const T *x, *w2, *residual;
    const float* pooled;
    T* out;
    bool vec;
  };

  static int64_t blocks(const Args& args) {
    return args.local.image.batch * args.local.image.pixel_tiles * args.local.image.u_tiles;
  }
  static int64_t shared_bytes(const Args& args) {
    return args.local.part * (kPixelRow + kWeightRow) * int64_t{sizeof(float)};
  }

  template <class Grid>
  LKCA_BODY static void run(const Grid& grid, const Args& args, unsigned char* shared) {
    const Local& local = args.local;
    const Shuffle& image = local.image;
    auto* const hidden = reinterpret_cast<float*>(shared);
    float* const w2 = hidden + local.part * kPixelRow;
    const int64_t work_count = image.batch * image.pixel_tiles * image.u_tiles;
    for (int64_t work = grid.block(); work < work_count; work += grid.blocks()) {
      const int64_t batch_tile = work / image.u_tiles, batch = batch_tile / image.pixel_tiles;
      const PixelTile tile(image, batch_tile % image.pixel_tiles);
      const Channels channels(image, tile, batch, work % image.u_tiles);
      TilePatch<T> gate(grid.thread());
      for (int k0 = 0; k0 < local.hidden; k0 += local.part) {
        grid.sync();
        load_hidden(grid, local, args.pooled, batch, tile, k0, hidden);
        load_weights(grid, w2, kWeightRow, local.part, kTileRows, args.w2 + channels.first * local.hidden + k0, 1,
                     local.hidden, local.hidden_from(k0), channels.count);
        grid.sync();
        gate.add(w2, kWeightRow, hidden, local.hidden_from(k0), channels.count);
      }
      gate.for_each_row(channels.count, [&](int row, auto& d) {
        constexpr int V = kVec<T>;
        const int64_t at = channels.offset + row * image.pixels + gate.column;
        const int valid = tile.count - gate.column;
        float x[V], added[V];
        load_part(args.x + at, valid, args.vec, x);
        if (args.residual != nullptr) load_part(args.residual + at, valid, args.vec, added);
        LKCA_UNROLL
        for (int e = 0; e < V; ++e) x[e] = x[e] * twice_sigmoid(d[e]) + (args.residual != nullptr ? added[e] : 0.0f);
        store_part(args.out + at, valid, args.vec, x);
      });
    }
  }
};

// ---- launches -----------------------------------------------------------------------------------------------------
const char* refusal(const LocalAttentionProblem& shape) {
  constexpr int64_t kLimit = int64_t{1} << 30;  // leaves room for a tile beyond
  if (shape.channels > kLimit || shape.hidden > kLimit) return "channels and hidden channels must stay below 2^30";
  if (shape.height > kLimit || shape.width > kLimit) return "height and width must stay below 2^30";
  return nullptr;
}

int64_t hidden_splits(const Local& local) { return partial_splits(local.image, local.image.batch); }
int64_t input_splits(const Local& local) {
  return partial_splits(local.image, local.image.batch * local.image.u_tiles);
}

/// The window's mean over every plane of `fields`, or its adjoint. What is in `fields` is lost; `result` is the one of
/// the two rooms that has the outcome.
template <bool kAdjoint>
const char* box(const Local& local, int64_t window, float* fields, float* room, float*& result, Stream stream) {
  using Kernel = LocalBox<kAdjoint>;
  result = fields;
  for (const bool along_x : {true, false}) {
    const int64_t size = along_x ? local.image.width : local.image.height;
    const int64_t reach = larger<int64_t>(0, smaller(window / 2, size - 1));  // a wider window reaches all of the image
    if (reach == 0) continue;
    float* const out = result == fields ? room : fields;
    const typename Kernel::Args args{local.image,
                                     local.planes(),
                                     ceil_div(local.planes(), Kernel::kPlanes * Kernel::kStep),
                                     result,
                                     out,
                                     static_cast<int>(reach),
                                     along_x};
    if (const char* error = launch<Kernel>(args, stream)) return error;
    result = out;
  }
  return nullptr;
}

/// P q and P m in one of the two rooms, which `pooled` then is.
template <class T>
const char* pool(const Local& local, int64_t window, const LocalAttentionInputs& in, float* mixed, float* room,
                 float*& pooled, Stream stream) {
  const Shuffle& image = local.image;
  const typename LocalMix<T>::Args args{local,
                                        static_cast<const T*>(in.x),
                                        static_cast<const T*>(in.w1),
                                        mixed,
                                        ceil_div(local.hidden + 1, kTileRows),
                                        1.0f / static_cast<float>(image.channels),
                                        k_step<T>(image.channels),
                                        vectors<T>(in.x, image.pixels),
                                        vectors<T>(in.w1, image.channels)};
  if (const char* error = launch<LocalMix<T>>(args, stream)) return error;
  return box<false>(local, window, mixed, room, pooled, stream);
}

template <class T>
const char* finish(const Local& local, const float* partial, int64_t splits, bool transposed, void* out,
                   Stream stream) {
  const int64_t parts = local.image.pixels == 0 ? 0 : local.image.batch * splits;
  const typename LocalFinish<T>::Args args{partial,   static_cast<T*>(out), parts, local.image.channels, local.hidden,
                                           transposed};
  return launch<LocalFinish<T>>(args, stream);
}

template <class T>
const char* forward(const LocalAttentionProblem& shape, const LocalAttentionInputs& in, const void* residual, void* out,
                    float* workspace, Stream stream) {
  const Local local(shape);
  const int64_t pixels = local.image.pixels;
  float* pooled = nullptr;
  const char* error = pool<T>(local, shape.window, in, workspace, workspace + local.planes() * pixels, pooled, stream);
  if (error != nullptr) return error;
  const typename LocalApply<T>::Args args{
      local,
      static_cast<const T*>(in.x),
      static_cast<const T*>(in.w2),
      static_cast<const T*>(residual),
      pooled,
      static_cast<T*>(out),
      vectors<T>(in.x, pixels) && vectors<T>(residual, pixels) && vectors<T>(out, pixels)};
  return launch<LocalApply<T>>(args, stream);
}

template <class T>
const char* backward(const LocalAttentionProblem& shape, const LocalAttentionInputs& in, const void* grad_out,
                     const LocalAttentionGradients& grad, float* workspace, Stream stream) {
  const Local local(shape);
  const int64_t pixels = local.image.pixels, floats = local.planes() * pixels;
  float *const first = workspace, *const second = first + floats, *const third = second + floats;
  float *const partial = third + floats, *pooled = nullptr, *grad_mixed = nullptr;
  const auto* g = static_cast<const T*>(grad_out);
  const auto *x = static_cast<const T*>(in.x), *w1 = static_cast<const T*>(in.w1), *w2 = static_cast<const T*>(in.w2);
  const bool vec = vectors<T>(x, pixels) && vectors<T>(g, pixels);
  const char* error = pool<T>(local, shape.window, in, first, second, pooled, stream);
  if (error != nullptr) return error;

  const bool further = grad.x != nullptr || grad.w1 != nullptr;
  float* const grad_pooled = pooled == first ? second : first;
  const typename LocalHiddenGradient<T>::Args hidden{local,
                                                     g,
                                                     x,
                                                     w2,
                                                     pooled,
                                                     further ? grad_pooled : nullptr,
                                                     grad.w2 == nullptr ? nullptr : partial,
                                                     hidden_splits(local),
                                                     vec};
  if ((error = launch<LocalHiddenGradient<T>>(hidden, stream)) != nullptr) return error;
  if (grad.w2 != nullptr) error = finish<T>(local, partial, hidden.splits, false, grad.w2, stream);
  if (error != nullptr || !further) return error;

  if ((error = box<true>(local, shape.window, grad_pooled, third, grad_mixed, stream)) != nullptr) return error;
  const typename LocalInputGradient<T>::Args input{local,
                                                   g,
                                                   x,
                                                   w1,
                                                   w2,
                                                   pooled,
                                                   grad_mixed,
                                                   static_cast<T*>(grad.x),
                                                   grad.w1 == nullptr ? nullptr : partial,
                                                   input_splits(local),
                                                   1.0f / static_cast<float>(local.image.channels),
                                                   vec && vectors<T>(grad.x, pixels)};
  if ((error = launch<LocalInputGradient<T>>(input, stream)) != nullptr) return error;
  return grad.w1 == nullptr ? nullptr : finish<T>(local, partial, input.splits, true, grad.w1, stream);
}

}  // namespace

int64_t local_attention_workspace(const LocalAttentionProblem& shape) {
  const Local local(shape);
  return 2 * local.planes() * local.image.pixels;
}

int64_t local_attention_backward_workspace(const LocalAttentionProblem& shape) {
  const Local local(shape);
  const int64_t splits = larger(hidden_splits(local), input_splits(local));
  return 3 * local.planes() * local.image.pixels + shape.batch * splits * shape.channels * shape.hidden;
}

const char* local_attention_forward(const LocalAttentionProblem& shape, const LocalAttentionInputs& in,
                                    const void* residual, void* out, float* workspace, Stream stream) {
  if (const char* why = refusal(shape)) return why;
  return dispatch(shape.dtype,
                  [&](auto t) { return forward<decltype(t)>(shape, in, residual, out, workspace, stream); });
}

const char* local_attention_backward(const LocalAttentionProblem& shape, const LocalAttentionInputs& in,
                                     const void* grad_out, const LocalAttentionGradients& grad, float* workspace,
                                     Stream stream) {
  if (const char* why = refusal(shape)) return why;
  return dispatch(shape.dtype,
                  [&](auto t) { return backward<decltype(t)>(shape, in, grad_out, grad, workspace, stream); });
}

}  // namespace lkca::cuda
