// Runs a model that `lkca export MODEL --to aoti` wrote: no Python, only libtorch and lkca's operator library.
//
//   upscale PACKAGE.pt2 OPERATORS.so BATCH BANDS ROWS COLS < cube.raw > upscaled.raw
//
// cube.raw: float32, (batch, bands, rows, cols), in the units of the model's training data. upscaled.raw: the same with
// scale times the rows and columns. OPERATORS.so: lkca_kernels/_C_cpu*.so, or "-" for a package made with --plain.
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <c10/core/InferenceMode.h>
#include <c10/util/Exception.h>
#include <dlfcn.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>

#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <string>
#include <vector>

int main(int argc, char** argv) try {
  if (argc != 7) {
    std::cerr << "usage: upscale PACKAGE.pt2 OPERATORS.so|- BATCH BANDS ROWS COLS < cube.raw > upscaled.raw\n";
    return 2;
  }
  // Loading the library registers lkca_cpu::*, which the package calls; nothing of it is linked.
  if (std::string(argv[2]) != "-" && dlopen(argv[2], RTLD_NOW | RTLD_GLOBAL) == nullptr) {
    std::cerr << dlerror() << "\n";
    return 1;
  }
  // Without this the package takes any shape, and reads beyond the end of a cube that has too few bands.
  setenv("AOTI_RUNTIME_CHECK_INPUTS", "1", 0);
  torch::inductor::AOTIModelPackageLoader model(argv[1]);
  auto facts = model.get_metadata();
  std::cerr << "scale " << facts["lkca.scale"] << ", bands " << facts["lkca.bands"] << ", halo " << facts["lkca.halo"]
            << "\n";

  const std::vector<int64_t> shape{std::atoll(argv[3]), std::atoll(argv[4]), std::atoll(argv[5]), std::atoll(argv[6])};
  at::Tensor cube = at::empty(shape, at::kFloat);
  if (std::fread(cube.data_ptr<float>(), sizeof(float), cube.numel(), stdin) != static_cast<size_t>(cube.numel())) {
    std::cerr << "cube.raw: is shorter than BATCH * BANDS * ROWS * COLS float32 values\n";
    return 2;
  }
  c10::InferenceMode inference;
  const at::Tensor upscaled = model.run({cube}).at(0).contiguous();
  const size_t count = upscaled.numel();
  return std::fwrite(upscaled.data_ptr<float>(), sizeof(float), count, stdout) == count ? 0 : 1;
} catch (const c10::Error& error) {
  std::cerr << error.what_without_backtrace() << "\n";
  return 1;
} catch (const std::exception& error) {
  std::cerr << error.what() << "\n";
  return 1;
}
