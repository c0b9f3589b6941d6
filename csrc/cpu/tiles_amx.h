// Products of bf16 pairs on AMX tiles. Included after vec_avx512.h; the process must have been granted tiles
// (dispatch.cpp).
#pragma once

namespace lkca::cpu {
namespace {

constexpr bool kTiles = true;
constexpr int64_t kTilePairs = 16;

// This thread's tiles while the object lives: 0 holds products (rows x 16), 1 rows of weight, 2 pairs of pixels.
class Tiles {
 public:
  // steps: pairs to a row, up to kTilePairs or a multiple of it.
  Tiles(int rows, int64_t steps) {
    const int64_t pairs = steps < 1 ? 1 : steps < kTilePairs ? steps : kTilePairs;
    config_.bytes[0] = config_.bytes[2] = 64;
    config_.bytes[1] = static_cast<uint16_t>(4 * pairs);
    config_.rows[0] = config_.rows[1] = static_cast<uint8_t>(rows);
    config_.rows[2] = static_cast<uint8_t>(pairs);
    settle();
    _tile_loadconfig(&config_);
  }
  ~Tiles() { _tile_release(); }
  Tiles(const Tiles&) = delete;
  Tiles& operator=(const Tiles&) = delete;

  // out [rows][16] = weight [rows][steps] . pixels [steps][16]
  static void multiply(const float* weight, const float* pixels, int64_t steps, float* out) {
    settle();
    _tile_zero(0);
    for (int64_t k = 0; k < steps; k += kTilePairs) {
      _tile_loadd(1, weight + k, 4 * steps);
      _tile_loadd(2, pixels + k * 16, 64);
      _tile_dpbf16ps(0, 1, 2);
    }
    _tile_stored(0, out, 64);
  }

 private:
  // GCC's intrinsics do not say that they read memory.
  static void settle() { asm volatile("" ::: "memory"); }

  struct alignas(64) {
    uint8_t palette = 1, first_row = 0, reserved[14] = {};
    uint16_t bytes[16] = {};
    uint8_t rows[16] = {};
  } config_;
};

}  // namespace
}  // namespace lkca::cpu
