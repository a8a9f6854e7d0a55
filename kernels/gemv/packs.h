// The kernels of gemv.h for packs, written once over the gathering vector type S of rows.h. In an unnamed namespace for
// the reason given there.
//
// A bundle's entries are one stream of B-wide packs, read in vectors of S::kLanes: lane i of vector u always holds
// entry (u * kLanes + i) % B of a pack, that is, a fixed row. So a bundle is multiplied without looking at rows at all,
// and its B sums are added up by row at the end, k neighbours at a time.
#pragma once

#include "rows.h"

namespace nested_sparse {
namespace {

template <class S, int B, class Index>
void gemv_packs(const GemvArgs& args, int64_t bundle_begin, int64_t bundle_end) {
  constexpr int L = S::kLanes;
  constexpr int kStep = 4 * L;  // four sums hide the latency of the multiply-add, and keep several gathers under way
  static_assert(kStep % B == 0, "a lane stays with its row");
  using Vec = typename S::Vec;
  const float* const x = args.x;
  const int per_row = args.weight.per_row;
  for (int64_t bundle = bundle_begin; bundle < bundle_end; ++bundle) {
    Vec s0 = S::zero(), s1 = S::zero(), s2 = S::zero(), s3 = S::zero();
    float sums[B] = {};
    for (int32_t l = 0; l < args.weight.level_count; ++l) {
      const PackedLevel& level = args.weight.levels[l];
      const int64_t begin = int64_t{level.ptr[bundle]} * B;
      int64_t left = int64_t{level.ptr[bundle + 1]} * B - begin;
      const Index* col = static_cast<const Index*>(level.col) + begin;
      const float* val = level.val + begin;
      for (; left >= kStep; left -= kStep, col += kStep, val += kStep) {
        for (int ahead = 0; ahead < kStep; ahead += 16) __builtin_prefetch(val + kPrefetch + ahead);
        for (int ahead = 0; ahead < kStep; ahead += kLine<Index>) __builtin_prefetch(col + kPrefetch + ahead);
        s0 = S::fma(S::load(val), S::template gather<1>(x, col), s0);
        s1 = S::fma(S::load(val + L), S::template gather<1>(x, col + L), s1);
        s2 = S::fma(S::load(val + 2 * L), S::template gather<1>(x, col + 2 * L), s2);
        s3 = S::fma(S::load(val + 3 * L), S::template gather<1>(x, col + 3 * L), s3);
      }
      for (; left >= B; left -= B, col += B, val += B) {
        for (int i = 0; i < B; ++i) sums[i] += val[i] * x[col[i]];
      }
    }
    float lanes[kStep];
    S::store(lanes, s0);
    S::store(lanes + L, s1);
    S::store(lanes + 2 * L, s2);
    S::store(lanes + 3 * L, s3);
    for (int i = 0; i < kStep; ++i) sums[i % B] += lanes[i];
    gemv_store_packs<B>(args, bundle, per_row, sums);
  }
}

}  // namespace
}  // namespace nested_sparse
