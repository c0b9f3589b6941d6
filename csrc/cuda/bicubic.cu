// The adjoint of the bicubic upsampling: the gradient of an LR skip. The upsampling itself, part of the forward
// kernels, is in epilogue.h.
#include "api.h"
#include "dispatch.h"
#include "epilogue.h"

namespace lkca::cuda {
namespace {

// LR sample y takes part in HR rows whose first tap lies in y-3 .. y+2: Y in s(y-2) .. s(y+3)-1; what the border
// rule folds onto y comes from the same rows. A block takes kLines LR rows by kColumns LR columns of a plane:
// down the columns into shared memory first, then along the rows.
template <class T>
struct SkipBackward {
  static constexpr int threads = kThreads, min_blocks = 2;
  static constexpr int kLines = 8, kColumns = 32, kReach = 2;

  struct Args {
    Shuffle shuffle;
    const T* grad_out;
    T* grad_skip;
    Bicubic bicubic;
    int64_t line_tiles, column_tiles;
  };

  static int64_t blocks(const Args& args) {
    return args.shuffle.batch * args.shuffle.channels * args.line_tiles * args.column_tiles;
  }
  static int64_t shared_bytes(const Args& args) {
    return bicubic_table_bytes(args.shuffle) +
           int64_t{kLines} * (kColumns + 2 * kReach) * args.shuffle.scale * int64_t{sizeof(float)};
  }

  /// Weight of LR sample `at` in HR sample `hr` of a line of n LR samples.
  LKCA_BODY static float weight(const Shuffle& shuffle, const TableTaps* table, int hr, int at, int n,
                                Bicubic convention) {
    const int x = shuffle.by_scale.div(hr);
    const TableTaps& taps = table[hr - x * shuffle.scale];
    float sum = 0.0f;
    LKCA_UNROLL
    for (int k = 0; k < 4; ++k) {
      if (inside(x + taps.first + k, n, convention) == at) sum += taps.weight[k];
    }
    return sum;
  }

  template <class Grid>
  LKCA_BODY static void run(const Grid& grid, const Args& args, unsigned char* shared) {
    const Shuffle& shuffle = args.shuffle;
    const int scale = shuffle.scale;
    auto* const table = reinterpret_cast<TableTaps*>(shared);
    auto* const lines = reinterpret_cast<float*>(shared + bicubic_table_bytes(shuffle));
    const int line_length = (kColumns + 2 * kReach) * scale;
    fill_bicubic_table(grid, shuffle, args.bicubic, table);
    const int64_t work_count = shuffle.batch * shuffle.channels * args.line_tiles * args.column_tiles;
    for (int64_t work = grid.block(); work < work_count; work += grid.blocks()) {
      const int64_t x0 = work % args.column_tiles * kColumns;
      const int64_t y0 = work / args.column_tiles % args.line_tiles * kLines;
      const int64_t plane = work / args.column_tiles / args.line_tiles;
      const T* const g = args.grad_out + plane * shuffle.plane_hr();
      const int64_t height_hr = shuffle.height * scale, hr0 = (x0 - kReach) * scale;
      grid.sync();
      for (int index = grid.thread(); index < kLines * line_length; index += kThreads) {
        const int line = index / line_length;
        const int64_t y = y0 + line, hr_column = hr0 + index - line * line_length;
        float sum = 0.0f;
        if (y < shuffle.height && hr_column >= 0 && hr_column < shuffle.width_hr) {
          const int64_t last = smaller(height_hr, (y + kReach + 1) * scale);
          for (int64_t row = larger<int64_t>(0, (y - kReach) * scale); row < last; ++row) {
            const float factor = weight(shuffle, table, static_cast<int>(row), static_cast<int>(y),
                                        static_cast<int>(shuffle.height), args.bicubic);
            if (factor != 0.0f) sum += factor * to_float(load(g + row * shuffle.width_hr + hr_column));
          }
        }
        lines[index] = sum;
      }
      grid.sync();
      for (int index = grid.thread(); index < kLines * kColumns; index += kThreads) {
        const int line = index / kColumns, column = index % kColumns;
        const int64_t y = y0 + line, x = x0 + column;
        if (y >= shuffle.height || x >= shuffle.width) continue;
        float sum = 0.0f;
        for (int step = 0; step < (2 * kReach + 1) * scale; ++step) {
          const int64_t hr_column = (x - kReach) * scale + step;
          if (hr_column < 0 || hr_column >= shuffle.width_hr) continue;
          const float factor = weight(shuffle, table, static_cast<int>(hr_column), static_cast<int>(x),
                                      static_cast<int>(shuffle.width), args.bicubic);
          sum += factor * lines[line * line_length + column * scale + step];
        }
        store(args.grad_skip + (plane * shuffle.height + y) * shuffle.width + x, from_float<T>(sum));
      }
    }
  }
};

}  // namespace

const char* skip_backward(const ShuffleProblem& shape, Bicubic bicubic, const void* grad_out, void* grad_skip,
                          Stream stream) {
  if (const char* why = shuffle_refusal(shape.channels, 1, shape.height, shape.width, shape.scale)) return why;
  if (shape.height > (int64_t{1} << 30) / shape.scale) return "an HR column must stay below 2^30 elements";
  const Shuffle shuffle(shape);
  return dispatch(shape.dtype, [&](auto t) {
    using T = decltype(t);
    const typename SkipBackward<T>::Args args{shuffle,
                                              static_cast<const T*>(grad_out),
                                              static_cast<T*>(grad_skip),
                                              bicubic,
                                              ceil_div(shape.height, SkipBackward<T>::kLines),
                                              ceil_div(shape.width, SkipBackward<T>::kColumns)};
    return launch<SkipBackward<T>>(args, stream);
  });
}

}  // namespace lkca::cuda
