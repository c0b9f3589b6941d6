// The full-rank twin's epilogue, out = gate * pixel_shuffle(y) + skip, and its gradients.
#include "api.h"
#include "dispatch.h"
#include "epilogue.h"

namespace lkca::cuda {

const char* shuffle_refusal(int64_t channels, int64_t rank, int64_t height, int64_t width, int64_t scale) {
  constexpr int64_t kLimit = int64_t{1} << 30;  // leaves room for a tile beyond
  if (scale < 2 || scale > kMaxScale) return "the CUDA kernels take upscale_factor 2 to 64";
  if (channels > kLimit / (scale * scale)) return "channels * upscale_factor^2 must stay below 2^30";
  if (width > kLimit / scale || height > kLimit) return "an HR row must stay below 2^30 elements";
  if (rank < 1 || rank > kLimit) return "the rank must be 1 to 2^30";
  return nullptr;
}

namespace {

// ---- forward ------------------------------------------------------------------------------------------------
// An HR vector gathers its elements from s rows of y. Neighbouring lanes read neighbouring pixels, so the gather
// is coalesced row by row and nothing is staged.
template <class T, bool kLowRes>
struct EpilogueForward {
  static constexpr int threads = kThreads, min_blocks = kLowRes ? 2 : 3;

  struct Args {
    Shuffle shuffle;
    Epilogue<T, kLowRes> epilogue;
    const T* y;
  };

  static int64_t blocks(const Args& args) {
    return args.shuffle.batch * args.shuffle.pixel_tiles * args.shuffle.u_tiles;
  }
  static int64_t shared_bytes(const Args& args) { return args.epilogue.room_bytes(args.shuffle); }

  template <class Grid>
  LKCA_BODY static void run(const Grid& grid, const Args& args, unsigned char* shared) {
    const Shuffle& shuffle = args.shuffle;
    const typename Epilogue<T, kLowRes>::Room room(shuffle, shared);
    args.epilogue.start(grid, shuffle, room);
    const int64_t work_count = shuffle.batch * shuffle.pixel_tiles * shuffle.u_tiles;
    for (int64_t work = grid.block(); work < work_count; work += grid.blocks()) {
      const int64_t u0 = work / shuffle.pixel_tiles % shuffle.u_tiles * shuffle.tile_u;
      const int64_t batch = work / shuffle.pixel_tiles / shuffle.u_tiles;
      const PixelTile tile(shuffle, work % shuffle.pixel_tiles);
      const int u_count = static_cast<int>(smaller<int64_t>(shuffle.tile_u, shuffle.u_rows - u0));
      const T* const rows = args.y + (batch * shuffle.weight_rows() + u0 * shuffle.scale) * shuffle.pixels + tile.first;
      grid.sync();
      args.epilogue.prepare(grid, shuffle, tile, batch, u0, u_count, room);
      grid.sync();
      args.epilogue.write(grid, shuffle, tile, u_count, room, [&](int u, int q, auto& value) {
        constexpr int V = sizeof(value) / sizeof(float);
        int pixel = shuffle.by_scale.div(q), j = q - pixel * shuffle.scale;
        LKCA_UNROLL
        for (int e = 0; e < V; ++e) {
          value[e] = to_float(load(rows + (u * shuffle.scale + j) * shuffle.pixels + pixel));
          if (++j == shuffle.scale) j = 0, ++pixel;
        }
      });
    }
  }
};

// ---- backward: dy = gate * unshuffle(g); dgate = sum over the channel of g * pixel_shuffle(y) ---------------------
template <class T>
struct EpilogueBackward {
  static constexpr int threads = kThreads, min_blocks = 4;

  struct Args {
    Shuffle shuffle;
    const T *grad_out, *y, *gate;
    T* grad_y;       // or null
    float* partial;  // (batch, u rows, pixel tiles), or null
    bool vec;
  };

  static int64_t blocks(const Args& args) {
    return args.shuffle.batch * args.shuffle.pixel_tiles * args.shuffle.u_tiles;
  }
  static int64_t shared_bytes(const Args& args) { return Stage::bytes(args.shuffle); }

  template <class Grid>
  LKCA_BODY static void run(const Grid& grid, const Args& args, unsigned char* shared) {
    const Shuffle& shuffle = args.shuffle;
    const Stage stage(reinterpret_cast<float*>(shared), shuffle);
    const int warp = grid.thread() / 32, lane = grid.thread() % 32;
    const int64_t work_count = shuffle.batch * shuffle.pixel_tiles * shuffle.u_tiles;
    for (int64_t work = grid.block(); work < work_count; work += grid.blocks()) {
      const int64_t index = work % shuffle.pixel_tiles;
      const int64_t u0 = work / shuffle.pixel_tiles % shuffle.u_tiles * shuffle.tile_u;
      const int64_t batch = work / shuffle.pixel_tiles / shuffle.u_tiles;
      const PixelTile tile(shuffle, index);
      const int u_count = static_cast<int>(smaller<int64_t>(shuffle.tile_u, shuffle.u_rows - u0));
      grid.sync();
      read_hr(grid, shuffle, tile, batch, u0, u_count, args.grad_out, args.vec,
              [&](int u, int q, const auto& value) { stage.write(u, q, value); });
      grid.sync();
      for (int u = warp; u < u_count; u += kWarps) {
        const int64_t row = batch * shuffle.u_rows + u0 + u;
        const int64_t plane = batch * shuffle.channels + shuffle.by_scale.div(static_cast<int>(u0) + u);
        const float gate = args.gate == nullptr ? 1.0f : to_float(load(args.gate + plane));
        float sum = 0.0f;
        for (int j = 0; j < shuffle.scale; ++j) {
          const int64_t at = (row * shuffle.scale + j) * shuffle.pixels + tile.first;
          for (int pixel = lane; pixel < tile.count; pixel += 32) {
            const float g = stage.at(u, pixel * shuffle.scale + j);
            if (args.grad_y != nullptr) store(args.grad_y + at + pixel, from_float<T>(gate * g));
            if (args.partial != nullptr) sum += g * to_float(load(args.y + at + pixel));
          }
        }
        if (args.partial != nullptr) {
          sum = grid.warp_sum(sum);
          if (lane == 0) store(args.partial + row * shuffle.pixel_tiles + index, sum);
        }
      }
    }
  }
};

/// out[row] = sum of partial[row][0 .. length), a block to a row.
template <class T>
struct RowSum {
  static constexpr int threads = kThreads, min_blocks = 2;

  struct Args {
    const float* partial;
    T* out;
    int64_t rows, length;
  };

  static int64_t blocks(const Args& args) { return args.rows; }
  static int64_t shared_bytes(const Args&) { return kWarps * sizeof(float); }

  template <class Grid>
  LKCA_BODY static void run(const Grid& grid, const Args& args, unsigned char* shared) {
    for (int64_t row = grid.block(); row < args.rows; row += grid.blocks()) {
      float sum = 0.0f;
      for (int64_t i = grid.thread(); i < args.length; i += kThreads) sum += load(args.partial + row * args.length + i);
      sum = block_sum(grid, sum, reinterpret_cast<float*>(shared));
      if (grid.thread() == 0) store(args.out + row, from_float<T>(sum));
    }
  }
};

}  // namespace

const char* epilogue_forward(const ShuffleProblem& shape, const void* y, const void* gate, const void* skip,
                             bool low_res_skip, Bicubic bicubic, void* out, Stream stream) {
  if (const char* why = shuffle_refusal(shape.channels, 1, shape.height, shape.width, shape.scale)) return why;
  const Shuffle shuffle(shape);
  return dispatch(shape.dtype, [&](auto t) {
    using T = decltype(t);
    const auto forward = [&](auto low_res) {
      constexpr bool kLowRes = decltype(low_res)::value;
      using Kernel = EpilogueForward<T, kLowRes>;
      const typename Kernel::Args args{shuffle, Epilogue<T, kLowRes>(shuffle, gate, skip, bicubic, out),
                                       static_cast<const T*>(y)};
      return launch<Kernel>(args, stream);
    };
    return low_res_skip ? forward(Constant<true>{}) : forward(Constant<false>{});
  });
}

int64_t epilogue_backward_workspace(const ShuffleProblem& shape) {
  const Shuffle shuffle(shape);
  return shuffle.batch * shuffle.u_rows * shuffle.pixel_tiles;
}

const char* epilogue_backward(const ShuffleProblem& shape, const void* grad_out, const void* y, const void* gate,
                              void* grad_y, void* grad_gate, float* workspace, Stream stream) {
  if (const char* why = shuffle_refusal(shape.channels, 1, shape.height, shape.width, shape.scale)) return why;
  if (grad_y == nullptr && grad_gate == nullptr) return nullptr;
  const Shuffle shuffle(shape);
  return dispatch(shape.dtype, [&](auto t) -> const char* {
    using T = decltype(t);
    const typename EpilogueBackward<T>::Args args{shuffle,
                                                  static_cast<const T*>(grad_out),
                                                  static_cast<const T*>(y),
                                                  static_cast<const T*>(gate),
                                                  static_cast<T*>(grad_y),
                                                  grad_gate == nullptr ? nullptr : workspace,
                                                  vectors<T>(grad_out, shuffle.width_hr)};
    if (const char* error = launch<EpilogueBackward<T>>(args, stream)) return error;
    if (grad_gate == nullptr) return nullptr;
    const typename RowSum<T>::Args sum{workspace, static_cast<T*>(grad_gate), shuffle.batch * shuffle.channels,
                                       shuffle.scale * shuffle.pixel_tiles};
    return launch<RowSum<T>>(sum, stream);
  });
}

}  // namespace lkca::cuda
