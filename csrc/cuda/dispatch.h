// Host side of a launch: the storage type, and whether rows are whole 16-byte vectors.
#pragma once

#include "api.h"
#include "platform.h"

namespace lkca::cuda {

template <class F>
const char* dispatch(Dtype dtype, F f) {
  switch (dtype) {
    case Dtype::float32:
      return f(float{});
    case Dtype::float16:
      return f(half_t{});
    case Dtype::bfloat16:
      return f(bfloat_t{});
  }
  return "unknown dtype";
}

/// Rows of `row` elements one after another from p on can be read and written as vectors.
template <class T>
bool vectors(const void* p, int64_t row) {
  return reinterpret_cast<uintptr_t>(p) % 16 == 0 && row % kVec<T> == 0;
}

}  // namespace lkca::cuda
