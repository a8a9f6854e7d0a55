// The kernels of gemv.h for gather groups, written once over the vector type W of rows.h. Everything is in an unnamed
// namespace for the reason given there.
//
// The gather groups of a bundle follow one another in memory, and are read in vectors of W::kRows lanes. A vector is
// one gather group, half of one, or two. So a lane always holds the same entry of a gather group, and therefore values
// of the same row. A bundle is multiplied without regard to its rows; at the end its B sums are added up by row, k
// neighbours at a time.
#pragma once

#include "rows.h"

namespace nested_sparse {
namespace {

template <class W, int B, class Index, class Value>
void gs_bundle(const GemvArgs& args, int64_t bundle) {
  constexpr int kWidth = W::kRows < B ? W::kRows : B;             // entries of a gather group in a vector
  constexpr int kGatherGroups = W::kRows > B ? W::kRows / B : 1;  // gather groups in a vector
  float sums[B] = {};
  for (int part = 0; part < B; part += kWidth) {
    Diagonal<W, 1> diagonal;
    for (int32_t l = 0; l < args.weight.level_count; ++l) {
      const PackedLevel& level = args.weight.levels[l];
      const int64_t begin = int64_t{level.ptr[bundle]} * B;
      const int64_t gather_groups = int64_t{level.ptr[bundle + 1]} - level.ptr[bundle];
      const Index* col = static_cast<const Index*>(level.col) + begin;
      const Value* val = values_of<Value>(level) + begin;
      diagonal.add(args.x, val + part, col + part, gather_groups / kGatherGroups, kGatherGroups * B);
      for (int64_t j = gather_groups / kGatherGroups * kGatherGroups * B; j < gather_groups * B; ++j)
        sums[j % B] += widened(val[j]) * args.x[col[j]];
    }
    float lanes[W::kRows] = {};
    diagonal.store(lanes);
    for (int i = 0; i < W::kRows; ++i) sums[part + i % kWidth] += lanes[i];
  }
  gemv_store_gs<B>(args, bundle, args.weight.per_row, sums);
}

template <class W, int B, class Index, class Value>
void gemv_gs(const GemvArgs& args, int64_t bundle_begin, int64_t bundle_end) {
  for (int64_t bundle = bundle_begin; bundle < bundle_end; ++bundle) {
    for (int64_t n = 0; n < args.count; ++n) gs_bundle<W, B, Index, Value>(vector_of(args, n), bundle);
  }
}

}  // namespace
}  // namespace nested_sparse
