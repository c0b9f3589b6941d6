// Rows of lowrank_pixel_shuffle as a file stores them (Stored in kernels.h): the forward with another end.
#pragma once

#include "cpu/lowrank_fwd.h"

namespace lkca::cpu {
namespace {

struct Code {
  uint16_t bits;
};

template <typename O>
class StoredSamples {
 public:
  using Out = O;
  static constexpr bool kStreams = false;
  explicit StoredSamples(const LowRankFwd& a) : stored_(a.stored) { begin_task(); }

  void channel(int64_t c) {
    gain_ = Vec::set1(stored_.gain[c]);
    bounded_ = stored_.least != nullptr;
    if (bounded_) bound_ = Vec::set1(stored_.least[c]);
  }
  template <int S>
  LKCA_INLINE void put(Vec (&v)[S], O* p) {
    LKCA_UNROLL
    for (int j = 0; j < S; ++j) store(product(v[j]), p + j * N);
  }
  void put_part(const Vec& v, O* p, int64_t count) {
    if (count >= N) return store(product(v), p);
    alignas(64) float full[N];
    v.store(full);
    for (int64_t l = count; l < N; ++l) full[l] = full[0];  // neither a smaller nor a larger one
    O codes[N];
    store(product(Vec::load(full)), codes);
    for (int64_t l = 0; l < count; ++l) p[l] = codes[l];
  }
  void end_task(int64_t task) {
    float least[N], most[N], bad[N], *to = stored_.extremes + 3 * task;
    least_.store(least), most_.store(most), bad_.store(bad);
    to[0] = least[0], to[1] = most[0], to[2] = bad[0];
    for (int l = 1; l < N; ++l) {
      to[0] = least[l] < to[0] ? least[l] : to[0];
      to[1] = most[l] > to[1] ? most[l] : to[1];
      to[2] += bad[l];
    }
    begin_task();
  }

 private:
  void begin_task() { least_ = Vec::set1(kHuge), most_ = Vec::set1(-kHuge), bad_ = Vec::set1(0.f); }
  Vec product(const Vec& v) {
    const Vec x = (bounded_ ? at_least(bound_, v) : v) * gain_;
    least_ = at_most(x, least_), most_ = at_least(x, most_);  // without a NaN, which bad_ keeps
    bad_ = fma(x, Vec::set1(0.f), bad_);
    return x;
  }
  void store(const Vec& x, float* p) const { x.store(p); }
  // The sum's last bits are the integer, in two's complement.
  void store(const Vec& x, Code* p) const {
    const Vec inside = at_most(at_least(x, Vec::set1(stored_.low)), Vec::set1(stored_.high));
    (inside + Vec::set1(0x1.8p23f)).store_low_words(&p->bits);
  }

  static constexpr float kHuge = 3.402823466e38f;
  const Stored& stored_;
  Vec gain_ = Vec::set1(1.f), bound_ = gain_, least_ = gain_, most_ = gain_, bad_ = gain_;
  bool bounded_ = false;
};

void lowrank_stored(const LowRankFwd& a, int64_t begin, int64_t end, float* scratch) {
  with_scale(a.scale, [&](auto s) {
    constexpr int S = decltype(s)::value;
    if (a.stored.integers) return lowrank_tasks<float, S, StoredSamples<Code>>(a, begin, end, scratch);
    lowrank_tasks<float, S, StoredSamples<float>>(a, begin, end, scratch);
  });
}

}  // namespace
}  // namespace lkca::cpu
