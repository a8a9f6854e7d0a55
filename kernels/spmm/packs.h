// The microkernel of spmm.h for packs, over the vector type S of tile.h. A packed row's entries are k of every pack of
// its bundle: two walks with stride B. Its columns are its own, so a row is computed alone, like V = 1. In an unnamed
// namespace for the reason given in tile.h.
#pragma once

#include "spmm.h"

namespace nested_sparse {
namespace {

// One packed row by P vectors of pixels, all whole (or places says so), or P = 1 with `count` pixels.
template <class S, int B, int P, class Index>
struct PackTile {
  using Vec = typename S::Vec;

  const SpmmArgs& args;
  const int64_t first_vector;
  const int count;
  Vec sums[P];

  Vec load(const float* x) const { return P == 1 && count < S::kLanes ? S::load_first(x, count) : S::load(x); }

  void accumulate(const PackedLevel& level, int64_t r) {
    const int64_t bundle = r * args.weight.per_row / B;
    const int64_t lane = r * args.weight.per_row % B;
    const int64_t packs = int64_t{level.ptr[bundle + 1]} - level.ptr[bundle];
    const int64_t begin = int64_t{level.ptr[bundle]} * B + lane;
    const float* const pixels = args.x + first_vector * S::kLanes;
    for (int i = 0; i < args.weight.per_row; ++i) {
      const Index* col = static_cast<const Index*>(level.col) + begin + i;
      const float* val = level.val + begin + i;
      for (int64_t left = packs; left > 0; --left, col += B, val += B) {
        const float* const x = pixels + args.offset[*col];
        const Vec weight = S::broadcast(val);
        for (int p = 0; p < P; ++p) sums[p] = S::fma(weight, load(x + p * S::kLanes), sums[p]);
      }
    }
  }

  void store(int64_t r, int64_t output) const {
    float* const y = args.y + output * args.y_pitch;
    const float* const residual = args.residual == nullptr ? nullptr : args.residual + output * args.y_pitch;
    const typename S::Bounds bounds{S::splat(args.clip.lo), S::splat(args.clip.hi)};
    for (int p = 0; p < P; ++p) {
      Vec value = S::fma(sums[p], S::splat(args.weight.scale[r]), S::splat(args.weight.shift[r]));
      int64_t position = (first_vector + p) * S::kLanes;
      int n = count;
      if (args.places != nullptr) {
        const PixelPlace place = args.places[first_vector + p];
        position = place.position;
        n = __builtin_popcount(place.mask);
        value = S::squeeze(value, place.mask);
      }
      if (residual != nullptr) value = S::add(value, S::load_first(residual + position, n));
      S::store_first(y + position, n, S::clip(value, bounds));
    }
  }
};

// Vectors [vector, vector_end) of a row: as many as go at P a time, then at half of that, and so on.
template <class S, int B, int P, class Index>
void pack_row(const SpmmArgs& args, int64_t r, int64_t output, int64_t vector, int64_t vector_end) {
  // A last vector of fewer pixels must not be read whole unless `places` says that it may.
  const int64_t whole = args.places != nullptr ? vector_end : args.pixels / S::kLanes;
  while (vector_end - vector >= P && (P == 1 || vector + P <= whole)) {
    const int64_t left = args.pixels - vector * S::kLanes;
    const int count = args.places == nullptr && left < S::kLanes ? static_cast<int>(left) : S::kLanes;
    PackTile<S, B, P, Index> tile{args, vector, count, {}};
    for (int p = 0; p < P; ++p) tile.sums[p] = S::zero();
    for (int32_t l = 0; l < args.weight.level_count; ++l) tile.accumulate(args.weight.levels[l], r);
    tile.store(r, output);
    vector += P;
  }
  if constexpr (P > 1) {
    if (vector < vector_end) pack_row<S, B, P / 2, Index>(args, r, output, vector, vector_end);
  }
}

template <class S, int B, int P, class Index>
void spmm_packs(const SpmmArgs& args, int64_t row_begin, int64_t row_end, int64_t vector_begin, int64_t vector_end) {
  for (int64_t r = row_begin; r < row_end; ++r) {
    const int64_t output = output_of(args.weight, r);
    if (output >= 0) pack_row<S, B, P, Index>(args, r, output, vector_begin, vector_end);
  }
}

}  // namespace
}  // namespace nested_sparse
