// The fields of local channel attention: q and m of every pixel, and their means over the window.
#pragma once

#include "local_attention_tile.h"

namespace lkca::cuda {

/// q and m.
template <class T>
struct LocalMix {
  static constexpr int threads = kThreads, min_blocks = 2;

  struct Args {
    Local local;
    const T *x, *w1;
    float* mixed;
    int64_t row_tiles;
    float share;  // 1 / C
    int kc;
    bool vec_x, vec_w1;
  };

  static int64_t blocks(const Args& args) {
    return args.local.image.batch * args.local.image.pixel_tiles * args.row_tiles;
  }
  static int64_t shared_bytes(const Args& args) {
    return operand_bytes<T>(kTileRows, args.kc) + operand_bytes<T>(kTilePixels, args.kc);
  }

  template <class Grid>
  LKCA_BODY static void run(const Grid& grid, const Args& args, unsigned char* shared) {
    const Local& local = args.local;
    const Shuffle& image = local.image;
    T* const a = reinterpret_cast<T*>(shared);
    T* const b = a + Operand<T>::size(kTileRows, args.kc);
    const int stride = Operand<T>::stride(kTileRows, args.kc);
    const int64_t work_count = image.batch * image.pixel_tiles * args.row_tiles;
    for (int64_t work = grid.block(); work < work_count; work += grid.blocks()) {
      const int row0 = static_cast<int>(work % args.row_tiles) * kTileRows;
      const int64_t batch_tile = work / args.row_tiles;
      const int64_t batch = batch_tile / image.pixel_tiles;
      const PixelTile tile(image, batch_tile % image.pixel_tiles);
      const int rows = smaller(kTileRows, local.hidden + 1 - row0);
      TileProduct<T, kTileRows, kTilePixels> product;
      product.for_each(grid.thread(), [](int, int, float& d) { d = 0.0f; });
      for (int64_t c0 = 0; c0 < image.channels; c0 += args.kc) {
        grid.sync();
        load_columns<kTilePixels, true>(grid, b, args.kc,
                                        args.x + (batch * image.channels + c0) * image.pixels + tile.first,
                                        image.pixels, tile.count, image.channels - c0, args.vec_x);
        load_rows(grid, a, kTileRows, args.kc, args.w1 + int64_t{row0} * image.channels + c0, image.channels,
                  local.hidden - row0, image.channels - c0, args.vec_w1);
        if (row0 + rows == local.hidden + 1) {  // the last row: ones, for the mean
          grid.sync();                          // after load_rows has put zeros there
          for (int k = grid.thread(); k < args.kc; k += kThreads) {
            a[Operand<T>::at(rows - 1, k, stride)] = from_float<T>(1.0f);
          }
        }
        grid.sync();
        product.add(grid, a, b, args.kc, rows);
      }
      float* const out = args.mixed + local.field(batch, row0) + tile.first;
      product.for_each(grid.thread(), [&](int row, int pixel, float& d) {
        if (row >= rows || pixel >= tile.count) return;
        store(out + row * image.pixels + pixel, row0 + row == local.hidden ? d * args.share : d);
      });
    }
  }
};

/// Mean over the window along one direction, or its adjoint.
template <bool kAdjoint>
struct LocalBox {
  static constexpr int threads = kThreads, min_blocks = 4;
  static constexpr int kPlanes = 4, kStep = kThreads / kTilePixels;  // planes of a thread, and from one to its next

  struct Args {
    Shuffle image;
    int64_t planes, plane_groups;
    const float* in;
    float* out;
    int reach;  // below the image's size
    bool along_x;
  };

  static int64_t blocks(const Args& args) { return args.plane_groups * args.image.pixel_tiles; }
  static int64_t shared_bytes(const Args&) { return 0; }

  template <class Grid>
  LKCA_BODY static void run(const Grid& grid, const Args& args, unsigned char*) {
    const Shuffle& image = args.image;
    const int pixel = grid.thread() % kTilePixels;
    const int size = static_cast<int>(args.along_x ? image.width : image.height);
    const auto count = [&](int i) {
      return static_cast<float>(smaller(i + args.reach, size - 1) - larger(i - args.reach, 0) + 1);
    };
    for (int64_t work = grid.block(); work < args.plane_groups * image.pixel_tiles; work += grid.blocks()) {
      const PixelTile tile(image, work % image.pixel_tiles);
      if (pixel >= tile.count) continue;
      const int64_t plane = work / image.pixel_tiles * kPlanes * kStep + grid.thread() / kTilePixels;
      const int64_t at = plane * image.pixels + tile.first + pixel;
      const int along = tile.x + pixel, down = image.by_width.div(along);
      const int i = args.along_x ? along - down * static_cast<int>(image.width) : static_cast<int>(tile.row) + down;
      const int64_t step = args.along_x ? 1 : image.width;
      float total[kPlanes] = {};
      for (int source = larger(i - args.reach, 0); source <= smaller(i + args.reach, size - 1); ++source) {
        const float* const from = args.in + at + (source - i) * step;
        const float share = kAdjoint ? 1.0f / count(source) : 1.0f;
        LKCA_UNROLL
        for (int p = 0; p < kPlanes; ++p) {
          if (plane + p * kStep < args.planes) total[p] += share * load(from + p * kStep * image.pixels);
        }
      }
      LKCA_UNROLL
      for (int p = 0; p < kPlanes; ++p) {
        if (plane + p * kStep >= args.planes) continue;
        store(args.out + at + p * kStep * image.pixels, kAdjoint ? total[p] : total[p] / count(i));
      }
    }
  }
};

}  // namespace lkca::cuda
