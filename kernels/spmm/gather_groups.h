// The microkernel of spmm.h for gather groups, written over the vector type S of tile.h. A packed row has k entries in
// every gather group of its bundle, so it is read in k passes with stride B. Its columns are its own, so each row is
// computed alone, as with V = 1. Everything is in an unnamed namespace for the reason given in tile.h.
#pragma once

#include "tile.h"

namespace nested_sparse {
namespace {

// The groups of `spmm` for gather groups: single packed rows.
template <class S, int B, class Index>
struct GatherGroups {
  template <int P, bool Rest>
  static void run(const SpmmArgs& args, int64_t row_begin, int64_t row_end, int64_t first, int rest) {
    const typename S::Bounds bounds{S::splat(args.clip.lo), S::splat(args.clip.hi)};
    for (int64_t r = row_begin; r < row_end; ++r) {
      const int64_t output = output_of(args.weight, r);
      if (output < 0) continue;
      Tile<S, 1, 1, P, Rest, Index> tile{args, first, rest, bounds, {}};
      auto& sums = tile.sums[0][0];
      for (auto& sum : sums) sum = S::zero();
      for (int32_t l = 0; l < args.weight.level_count; ++l) {
        accumulate(args, args.weight.levels[l], r, args.x + first, sums);
      }
      tile.store_row(sums, r, output);
    }
  }

  template <class Vec, int P>
  NESTED_SPARSE_INLINE static void accumulate(const SpmmArgs& args, const PackedLevel& level, int64_t r,
                                              const float* pixels, Vec (&sums)[P]) {
    const int64_t bundle = r * args.weight.per_row / B;
    const int64_t gather_groups = int64_t{level.ptr[bundle + 1]} - level.ptr[bundle];
    const int64_t begin = int64_t{level.ptr[bundle]} * B + r * args.weight.per_row % B;
    for (int i = 0; i < args.weight.per_row; ++i) {
      const Index* col = static_cast<const Index*>(level.col) + begin + i;
      const float* val = values_of<float>(level) + begin + i;
      for (int64_t left = gather_groups; left > 0; --left, col += B, val += B) {
        const float* const x = pixels + static_cast<int64_t>(*col) * args.x_pitch;
        const Vec weight = S::broadcast(val);
        NESTED_SPARSE_UNROLL
        for (int p = 0; p < P; ++p) sums[p] = S::fma(weight, S::load(x + p * S::kLanes), sums[p]);
      }
    }
  }
};

}  // namespace
}  // namespace nested_sparse
