// The low-rank second stage: out = gate * (W z + bias), shuffled, + skip; and its gradients.
#include "api.h"
#include "dispatch.h"
#include "epilogue.h"
#include "lowrank_rows.h"

namespace lkca::cuda {
namespace {

// ---- forward ----------------------------------------------------------------------------------------------
template <class T, bool kLowRes>
struct LowrankForward {
  static constexpr int threads = kThreads, min_blocks = kLowRes || sizeof(T) == 4 ? 2 : 3;

  struct Args {
    Shuffle shuffle;
    Epilogue<T, kLowRes> epilogue;
    const T *z, *weight, *bias;
    int64_t rank, splits;  // blocks that share a pixel tile, each with its part of the u tiles
    int kc;
    bool vec_z, vec_weight;
  };

  static int64_t blocks(const Args& args) { return args.shuffle.batch * args.shuffle.pixel_tiles * args.splits; }
  static int64_t shared_bytes(const Args& args) {
    return Stage::bytes(args.shuffle) + operand_bytes<T>(kTileRows, args.kc) + operand_bytes<T>(kTilePixels, args.kc) +
           args.epilogue.room_bytes(args.shuffle);
  }

  template <class Grid>
  LKCA_BODY static void run(const Grid& grid, const Args& args, unsigned char* shared) {
    const Shuffle& shuffle = args.shuffle;
    const Stage stage(reinterpret_cast<float*>(shared), shuffle);
    T* const a = reinterpret_cast<T*>(shared + Stage::bytes(shuffle));
    T* const b = a + Operand<T>::size(kTileRows, args.kc);
    using Room = typename Epilogue<T, kLowRes>::Room;
    const Room room(shuffle, reinterpret_cast<unsigned char*>(b + Operand<T>::size(kTilePixels, args.kc)));
    args.epilogue.start(grid, shuffle, room);
    const bool z_stays = args.rank <= args.kc;
    const int64_t work_count = shuffle.batch * shuffle.pixel_tiles * args.splits;

    for (int64_t work = grid.block(); work < work_count; work += grid.blocks()) {
      const int64_t split = work % args.splits, batch_tile = work / args.splits;
      const int64_t batch = batch_tile / shuffle.pixel_tiles;
      const PixelTile tile(shuffle, batch_tile % shuffle.pixel_tiles);
      const int64_t first = shuffle.u_tiles * split / args.splits;
      const int64_t last = shuffle.u_tiles * (split + 1) / args.splits;

      for (int64_t u_tile = first; u_tile < last; ++u_tile) {
        const int64_t u0 = u_tile * shuffle.tile_u, row0 = u0 * shuffle.scale;
        const int u_count = static_cast<int>(smaller<int64_t>(shuffle.tile_u, shuffle.u_rows - u0));
        const int rows = u_count * shuffle.scale;
        TileProduct<T, kTileRows, kTilePixels> product;
        product.for_each(grid.thread(), [&](int row, int, float& d) {
          d = args.bias != nullptr && row < rows ? to_float(load(args.bias + row0 + row)) : 0.0f;
        });
        for (int64_t k0 = 0; k0 < args.rank; k0 += args.kc) {
          if (k0 > 0) grid.sync();
          if (!z_stays || u_tile == first) {
            load_columns<kTilePixels>(grid, b, args.kc, args.z + (batch * args.rank + k0) * shuffle.pixels + tile.first,
                                      shuffle.pixels, tile.count, args.rank - k0, args.vec_z);
          }
          load_rows(grid, a, kTileRows, args.kc, args.weight + row0 * args.rank + k0, args.rank, rows, args.rank - k0,
                    args.vec_weight);
          grid.sync();
          product.add(grid, a, b, args.kc);
        }
        product.for_each(grid.thread(), [&](int row, int pixel, float& d) {
          const int u = shuffle.by_scale.div(row);
          if (u < shuffle.tile_u) stage.at(u, pixel * shuffle.scale + row - u * shuffle.scale) = d;
        });
        args.epilogue.prepare(grid, shuffle, tile, batch, u0, u_count, room);
        grid.sync();
        args.epilogue.write(grid, shuffle, tile, u_count, room,
                            [&](int u, int q, auto& value) { stage.read(u, q, value); });
      }
    }
  }
};

// ---- gradient of z: dz = (gate W)^T g ----------------------------------------------------------------------
template <class T>
struct LowrankInputGradient {
  static constexpr int threads = kThreads, min_blocks = 2;

  struct Args {
    Shuffle shuffle;
    const T *grad_out, *weight, *gate;
    T* grad_z;
    int64_t rank, rank_tiles;
    bool vec;
  };

  static int64_t blocks(const Args& args) { return args.shuffle.batch * args.shuffle.pixel_tiles * args.rank_tiles; }
  static int64_t shared_bytes(const Args&) {
    return operand_bytes<T>(kTileRows, kTileRows) + operand_bytes<T>(kTilePixels, kTileRows);
  }

  template <class Grid>
  LKCA_BODY static void run(const Grid& grid, const Args& args, unsigned char* shared) {
    const Shuffle& shuffle = args.shuffle;
    constexpr int kc = kTileRows;
    T* const a = reinterpret_cast<T*>(shared);
    T* const b = a + Operand<T>::size(kTileRows, kc);
    const int stride_a = Operand<T>::stride(kTileRows, kc), stride_b = Operand<T>::stride(kTilePixels, kc);
    const int64_t work_count = shuffle.batch * shuffle.pixel_tiles * args.rank_tiles;

    for (int64_t work = grid.block(); work < work_count; work += grid.blocks()) {
      const int64_t r0 = work % args.rank_tiles * kTileRows, batch_tile = work / args.rank_tiles;
      const int64_t batch = batch_tile / shuffle.pixel_tiles;
      const PixelTile tile(shuffle, batch_tile % shuffle.pixel_tiles);
      const int ranks = static_cast<int>(smaller<int64_t>(kTileRows, args.rank - r0));
      TileProduct<T, kTileRows, kTilePixels> product;
      product.for_each(grid.thread(), [](int, int, float& d) { d = 0.0f; });

      for (int64_t u_tile = 0; u_tile < shuffle.u_tiles; ++u_tile) {
        const int64_t u0 = u_tile * shuffle.tile_u, row0 = u0 * shuffle.scale;
        const int u_count = static_cast<int>(smaller<int64_t>(shuffle.tile_u, shuffle.u_rows - u0));
        const int rows = u_count * shuffle.scale;
        grid.sync();
        if (u_tile == 0 || u_count < shuffle.tile_u) {  // what the loads below leave out must be zero, not inf
          clear(grid, b, Operand<T>::size(kTilePixels, kc));
          grid.sync();
        }
        for (int index = grid.thread(); index < kTileRows * kc; index += kThreads) {
          const int k = index / kTileRows, r = index % kTileRows;
          float value = 0.0f;
          if (k < rows && r < ranks) {
            value = to_float(load(args.weight + (row0 + k) * args.rank + r0 + r));
            if (args.gate != nullptr) {
              const int channel = shuffle.by_scale.div(static_cast<int>(u0) + shuffle.by_scale.div(k));
              value *= to_float(load(args.gate + batch * shuffle.channels + channel));
            }
          }
          a[Operand<T>::at(r, k, stride_a)] = from_float<T>(value);
        }
        read_hr(grid, shuffle, tile, batch, u0, u_count, args.grad_out, args.vec, [&](int u, int q, const auto& value) {
          constexpr int V = sizeof(value) / sizeof(float);
          int pixel = shuffle.by_scale.div(q), j = q - pixel * shuffle.scale;
          LKCA_UNROLL
          for (int e = 0; e < V; ++e) {
            b[Operand<T>::at(pixel, u * shuffle.scale + j, stride_b)] = from_float<T>(value[e]);
            if (++j == shuffle.scale) j = 0, ++pixel;
          }
        });
        grid.sync();
        product.add(grid, a, b, kc, ranks);
      }
      T* const out = args.grad_z + (batch * args.rank + r0) * shuffle.pixels + tile.first;
      product.for_each(grid.thread(), [&](int r, int pixel, float& d) {
        if (r < ranks && pixel < tile.count) store(out + r * shuffle.pixels + pixel, from_float<T>(d));
      });
    }
  }
};

// ---- gradients of weight, bias and gate ---------------------------------------------------------------------
// All three follow from the ungated products S[b, m, r] = sum_n g[b, m, n] z[b, r, n], where z is given a last
// row of ones (r = R), whose products are the plain sums over the pixels:
//   dW = sum_b gate S,  dbias = sum_b gate S[., R],  dgate = sum_{m in channel} (W S + bias S[., R]).
// So one reading of the HR gradient serves them, in parts per range of pixel tiles, summed in a fixed order.
template <class T>
struct LowrankPartialProducts {
  static constexpr int threads = kThreads, min_blocks = 2;

  struct Args {
    Shuffle shuffle;
    const T *grad_out, *z;
    float* partial;  // (batch, splits, weight rows, rank + 1)
    int64_t rank, column_tiles, splits;
    bool vec, vec_z;
  };

  static int64_t blocks(const Args& args) {
    return args.shuffle.batch * args.splits * args.shuffle.u_tiles * args.column_tiles;
  }
  static int64_t shared_bytes(const Args&) { return 2 * operand_bytes<T>(kTileRows, kTilePixels); }

  template <class Grid>
  LKCA_BODY static void run(const Grid& grid, const Args& args, unsigned char* shared) {
    const Shuffle& shuffle = args.shuffle;
    constexpr int kc = kTilePixels;
    T* const a = reinterpret_cast<T*>(shared);
    T* const b = a + Operand<T>::size(kTileRows, kc);
    const int stride = Operand<T>::stride(kTileRows, kc);
    const int64_t work_count = shuffle.batch * args.splits * shuffle.u_tiles * args.column_tiles;

    for (int64_t work = grid.block(); work < work_count; work += grid.blocks()) {
      int64_t rest = work;
      const int64_t column0 = rest % args.column_tiles * kTileRows;
      rest /= args.column_tiles;
      const int64_t u0 = rest % shuffle.u_tiles * shuffle.tile_u;
      rest /= shuffle.u_tiles;
      const int64_t split = rest % args.splits, batch = rest / args.splits;
      const int u_count = static_cast<int>(smaller<int64_t>(shuffle.tile_u, shuffle.u_rows - u0));
      const int rows = u_count * shuffle.scale;
      const int columns = static_cast<int>(smaller<int64_t>(kTileRows, args.rank + 1 - column0));
      TileProduct<T, kTileRows, kTileRows> product;
      product.for_each(grid.thread(), [](int, int, float& d) { d = 0.0f; });

      const int64_t last = shuffle.pixel_tiles * (split + 1) / args.splits;
      for (int64_t index = shuffle.pixel_tiles * split / args.splits; index < last; ++index) {
        const PixelTile tile(shuffle, index);
        grid.sync();
        if (tile.count < kTilePixels) {  // the pixels that are missing must be zero, not inf
          clear(grid, a, Operand<T>::size(kTileRows, kc));
          grid.sync();
        }
        load_rows(grid, b, kTileRows, kc, args.z + (batch * args.rank + column0) * shuffle.pixels + tile.first,
                  shuffle.pixels, args.rank - column0, tile.count, args.vec_z);
        read_hr(grid, shuffle, tile, batch, u0, u_count, args.grad_out, args.vec, [&](int u, int q, const auto& value) {
          constexpr int V = sizeof(value) / sizeof(float);
          int pixel = shuffle.by_scale.div(q), j = q - pixel * shuffle.scale;
          LKCA_UNROLL
          for (int e = 0; e < V; ++e) {
            a[Operand<T>::at(u * shuffle.scale + j, pixel, stride)] = from_float<T>(value[e]);
            if (++j == shuffle.scale) j = 0, ++pixel;
          }
        });
        if (column0 + columns == args.rank + 1) {
          grid.sync();  // after load_rows has put zeros there
          for (int pixel = grid.thread(); pixel < tile.count; pixel += kThreads) {
            b[Operand<T>::at(columns - 1, pixel, stride)] = from_float<T>(1.0f);
          }
        }
        grid.sync();
        product.add(grid, a, b, kc, rows, columns);
      }
      float* const out =
          args.partial +
          ((batch * args.splits + split) * shuffle.weight_rows() + u0 * shuffle.scale) * (args.rank + 1) + column0;
      product.for_each(grid.thread(), [&](int row, int column, float& d) {
        if (row < rows && column < columns) store(out + row * (args.rank + 1) + column, d);
      });
    }
  }
};

template <class T>
struct LowrankFinishWeight {
  static constexpr int threads = kThreads, min_blocks = 2;

  struct Args {
    const float* partial;
    const T* gate;
    T *grad_weight, *grad_bias;
    int64_t batch, splits, channels, rows_per_channel, rank;
  };

  static int64_t count(const Args& args) { return args.channels * args.rows_per_channel * (args.rank + 1); }
  static int64_t blocks(const Args& args) { return ceil_div(count(args), kThreads); }
  static int64_t shared_bytes(const Args&) { return 0; }

  template <class Grid>
  LKCA_BODY static void run(const Grid& grid, const Args& args, unsigned char*) {
    const int64_t columns = args.rank + 1, count = args.channels * args.rows_per_channel * columns;
    for (int64_t index = grid.block() * kThreads + grid.thread(); index < count; index += grid.blocks() * kThreads) {
      const int64_t row = index / columns, r = index - row * columns;
      float total = 0.0f;
      for (int64_t b = 0; b < args.batch; ++b) {
        float sum = 0.0f;
        for (int64_t split = 0; split < args.splits; ++split) {
          sum += load(args.partial + (b * args.splits + split) * count + index);
        }
        const float gate =
            args.gate == nullptr ? 1.0f : to_float(load(args.gate + b * args.channels + row / args.rows_per_channel));
        total += gate * sum;
      }
      if (r < args.rank) {
        if (args.grad_weight != nullptr) store(args.grad_weight + row * args.rank + r, from_float<T>(total));
      } else if (args.grad_bias != nullptr) {
        store(args.grad_bias + row, from_float<T>(total));
      }
    }
  }
};

template <class T>
struct LowrankFinishGate {
  static constexpr int threads = kThreads, min_blocks = 2;

  struct Args {
    const float* partial;
    const T *weight, *bias;
    T* grad_gate;
    int64_t batch, splits, channels, rows_per_channel, rank;
  };

  static int64_t blocks(const Args& args) { return args.batch * args.channels; }
  static int64_t shared_bytes(const Args&) { return kWarps * sizeof(float); }

  template <class Grid>
  LKCA_BODY static void run(const Grid& grid, const Args& args, unsigned char* shared) {
    const int64_t columns = args.rank + 1, per_channel = args.rows_per_channel * columns;
    for (int64_t work = grid.block(); work < args.batch * args.channels; work += grid.blocks()) {
      const int64_t b = work / args.channels, channel = work - b * args.channels;
      float total = 0.0f;
      for (int64_t index = grid.thread(); index < per_channel; index += kThreads) {
        const int64_t row = channel * args.rows_per_channel + index / columns, r = index % columns;
        if (r == args.rank && args.bias == nullptr) continue;  // what nothing multiplies takes no part, not even as NaN
        const float factor = to_float(load(r < args.rank ? args.weight + row * args.rank + r : args.bias + row));
        float sum = 0.0f;
        for (int64_t split = 0; split < args.splits; ++split) {
          sum += load(args.partial + ((b * args.splits + split) * args.channels + channel) * per_channel + index);
        }
        total += factor * sum;
      }
      total = block_sum(grid, total, reinterpret_cast<float*>(shared));
      if (grid.thread() == 0) store(args.grad_gate + work, from_float<T>(total));
    }
  }
};

// ---- launches -------------------------------------------------------------------------------------------------
constexpr int64_t kForwardBlocks = 2048;  // enough for any card, whatever the shape allows

int64_t product_splits(const Shuffle& shuffle, int64_t rank) {
  return partial_splits(shuffle, shuffle.batch * shuffle.u_tiles * ceil_div(rank + 1, kTileRows));
}

/// Blocks of LowrankForward that share a pixel tile, each with its part of the u tiles.
int64_t forward_splits(const Shuffle& shuffle) {
  int64_t wanted = kForwardBlocks;
#if !defined(__CUDACC__)
  wanted = emulation::forward_blocks(wanted);
#endif
  return smaller(shuffle.u_tiles, ceil_div(wanted, larger<int64_t>(1, shuffle.batch * shuffle.pixel_tiles)));
}

template <class T, bool kLowRes>
const char* forward_staged(const Shuffle& shuffle, const LowrankInputs& in, void* out, Stream stream) {
  using Kernel = LowrankForward<T, kLowRes>;
  typename Kernel::Args args{};
  args.shuffle = shuffle;
  args.epilogue = Epilogue<T, kLowRes>(shuffle, in.gate, in.skip, in.bicubic, out);
  args.z = static_cast<const T*>(in.z);
  args.weight = static_cast<const T*>(in.weight);
  args.bias = static_cast<const T*>(in.bias);
  args.rank = in.rank;
  args.kc = k_step<T>(in.rank);
  args.splits = forward_splits(shuffle);
  args.vec_z = vectors<T>(in.z, shuffle.pixels);
  args.vec_weight = vectors<T>(in.weight, in.rank);
  return launch<Kernel>(args, stream);
}

template <class T, int S, bool kLowRes>
const char* forward_rows(const Shuffle& shuffle, const LowrankInputs& in, void* out, Stream stream) {
  using Kernel = LowrankRows<T, S, kLowRes>;
  typename Kernel::Args args{};
  args.shuffle = shuffle;
  args.z = static_cast<const T*>(in.z);
  args.weight = static_cast<const T*>(in.weight);
  args.bias = static_cast<const T*>(in.bias);
  args.gate = static_cast<const T*>(in.gate);
  args.skip = static_cast<const T*>(in.skip);
  args.out = static_cast<T*>(out);
  args.bicubic = in.bicubic;
  args.rank = in.rank;
  args.chunks = ceil_div(shuffle.u_rows, Kernel::kU);
  if (args.chunks == 0) return nullptr;
  int64_t processors = 0, at_once = 0;
  if (const char* error = side_by_side<Kernel>(args, processors, at_once)) return error;
  args.splits = even_splits(shuffle.batch * shuffle.pixel_tiles, args.chunks, processors, at_once);
  args.vec_z = vectors<T>(in.z, shuffle.pixels);
  args.vec_weight = vectors<T>(in.weight, in.rank);
  args.vec_skip = kLowRes && LowrankRows<T, 4, true>::Interpolation::in_vectors(shuffle, in.skip);
  return launch<Kernel>(args, stream);
}

/// LowrankRows where it serves: 16 bits, s of 2, 4 or 8, a rank up to 32, HR rows of whole vectors.
template <class T, bool kLowRes>
const char* forward(const Shuffle& shuffle, const LowrankInputs& in, void* out, Stream stream) {
  if constexpr (sizeof(T) == 2) {
    if (in.rank <= LowrankRows<T, 2, kLowRes>::kc && vectors<T>(out, shuffle.width_hr) &&
        (kLowRes || vectors<T>(in.skip, shuffle.width_hr))) {
      const auto rows = [&](auto scale) {
        constexpr int S = decltype(scale)::value;
        return forward_rows<T, S, kLowRes>(shuffle, in, out, stream);
      };
      if (shuffle.scale == 2) return rows(Constant<2>{});
      if (shuffle.scale == 4 && (!kLowRes || LowrankRows<T, 4, true>::Interpolation::serves(shuffle, in.skip)))
        return rows(Constant<4>{});
      if constexpr (!kLowRes) {  // with the interpolation, s = 8 would spill registers
        if (shuffle.scale == 8) return rows(Constant<8>{});
      }
    }
  }
  return forward_staged<T, kLowRes>(shuffle, in, out, stream);
}

template <class T>
const char* backward(const Shuffle& shuffle, const LowrankInputs& in, const void* grad_out,
                     const LowrankGradients& grad, float* workspace, Stream stream) {
  const auto* g = static_cast<const T*>(grad_out);
  const auto* gate = static_cast<const T*>(in.gate);
  const auto* weight = static_cast<const T*>(in.weight);
  const bool vec = vectors<T>(grad_out, shuffle.width_hr);
  if (grad.z != nullptr) {
    const typename LowrankInputGradient<T>::Args args{
        shuffle, g, weight, gate, static_cast<T*>(grad.z), in.rank, ceil_div(in.rank, kTileRows), vec};
    if (const char* error = launch<LowrankInputGradient<T>>(args, stream)) return error;
  }
  if (grad.weight == nullptr && grad.bias == nullptr && grad.gate == nullptr) return nullptr;

  const int64_t splits = product_splits(shuffle, in.rank), per_channel = int64_t{shuffle.scale} * shuffle.scale;
  const typename LowrankPartialProducts<T>::Args args{shuffle,   g,       static_cast<const T*>(in.z),
                                                      workspace, in.rank, ceil_div(in.rank + 1, kTileRows),
                                                      splits,    vec,     vectors<T>(in.z, shuffle.pixels)};
  if (const char* error = launch<LowrankPartialProducts<T>>(args, stream)) return error;
  if (grad.weight != nullptr || grad.bias != nullptr) {
    const typename LowrankFinishWeight<T>::Args finish{workspace,
                                                       gate,
                                                       static_cast<T*>(grad.weight),
                                                       static_cast<T*>(grad.bias),
                                                       shuffle.batch,
                                                       splits,
                                                       shuffle.channels,
                                                       per_channel,
                                                       in.rank};
    if (const char* error = launch<LowrankFinishWeight<T>>(finish, stream)) return error;
  }
  if (grad.gate != nullptr) {
    const typename LowrankFinishGate<T>::Args finish{workspace,
                                                     weight,
                                                     static_cast<const T*>(in.bias),
                                                     static_cast<T*>(grad.gate),
                                                     shuffle.batch,
                                                     splits,
                                                     shuffle.channels,
                                                     per_channel,
                                                     in.rank};
    if (const char* error = launch<LowrankFinishGate<T>>(finish, stream)) return error;
  }
  return nullptr;
}

}  // namespace

const char* lowrank_forward(const ShuffleProblem& shape, const LowrankInputs& in, void* out, Stream stream) {
  if (const char* why = shuffle_refusal(shape.channels, in.rank, shape.height, shape.width, shape.scale)) return why;
  const Shuffle shuffle(shape);
  return dispatch(shape.dtype, [&](auto t) {
    using T = decltype(t);
    return in.low_res_skip ? forward<T, true>(shuffle, in, out, stream) : forward<T, false>(shuffle, in, out, stream);
  });
}

int64_t lowrank_backward_workspace(const ShuffleProblem& shape, int64_t rank) {
  const Shuffle shuffle(shape);
  return shuffle.batch * product_splits(shuffle, rank) * shuffle.weight_rows() * (rank + 1);
}

const char* lowrank_backward(const ShuffleProblem& shape, const LowrankInputs& in, const void* grad_out,
                             const LowrankGradients& grad, float* workspace, Stream stream) {
  if (const char* why = shuffle_refusal(shape.channels, in.rank, shape.height, shape.width, shape.scale)) return why;
  return dispatch(shape.dtype,
                  [&](auto t) { return backward<decltype(t)>(Shuffle(shape), in, grad_out, grad, workspace, stream); });
}

}  // namespace lkca::cuda
