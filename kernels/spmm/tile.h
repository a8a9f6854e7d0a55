// The microkernel of spmm.h, written once over a vector type S; each instruction set's file includes it. Everything is
// in an unnamed namespace: code compiled for one instruction set must never be linked into another's callers.
//
// S gives: Vec, Bounds (lo, hi), kLanes, zero, load, load_first(p, n), broadcast(p), splat, fma(a, b, c) where a is
// from broadcast or splat, add, clip, store, store_first(p, n, v), and squeeze(v, mask): the lanes of mask, moved to
// the front.
#pragma once

#include "spmm.h"

#if defined(__clang__)
#define NESTED_SPARSE_UNROLL _Pragma("unroll")
#else
#define NESTED_SPARSE_UNROLL _Pragma("GCC unroll 16")
#endif
#define NESTED_SPARSE_INLINE inline __attribute__((always_inline))

namespace nested_sparse {
namespace {

// Floats from the value in use to the one fetched early; 2 to 5 % of ResNet-50. More, or for V < 4, gains nothing.
constexpr int kPrefetch = 128;

// How pixels go to y: all in place; the same with a last vector of `rest` pixels; or some lanes dropped.
enum class Fill { whole, rest, squeezed };

// R rows of a group by P vectors of pixels, in registers from the first level to the store.
template <class S, int V, int R, int P, Fill F, class Index>
struct Tile {
  using Vec = typename S::Vec;

  const SpmmArgs& args;
  const int64_t first_vector;
  const int rest;
  const typename S::Bounds bounds;
  Vec sums[R][P];

  NESTED_SPARSE_INLINE void accumulate(const PackedLevel& level, int64_t group, int row) {
    const uint32_t begin = level.ptr[group];
    const uint32_t end = level.ptr[group + 1];
    const Index* col = static_cast<const Index*>(level.col) + begin;
    const Index* const col_end = static_cast<const Index*>(level.col) + end;
    const float* val = level.val + static_cast<int64_t>(begin) * V + row;
    const float* const pixels = args.x + first_vector * S::kLanes;
    const int32_t* const offset = args.offset;
    for (; col != col_end; ++col, val += V) {
      if (V >= 4) __builtin_prefetch(val + kPrefetch);
      const float* const x = pixels + offset[*col];
      Vec in[P];
      NESTED_SPARSE_UNROLL
      for (int i = 0; i < P; ++i) {
        in[i] = F == Fill::rest && i == P - 1 ? S::load_first(x + i * S::kLanes, rest) : S::load(x + i * S::kLanes);
      }
      NESTED_SPARSE_UNROLL
      for (int r = 0; r < R; ++r) {
        const Vec weight = S::broadcast(val + r);
        NESTED_SPARSE_UNROLL
        for (int i = 0; i < P; ++i) sums[r][i] = S::fma(weight, in[i], sums[r][i]);
      }
    }
  }

  // One vector of outputs: `n` floats at y, all of them where Whole.
  template <bool Whole>
  NESTED_SPARSE_INLINE void finish(Vec value, float* y, const float* residual, int n) {
    if (residual != nullptr) value = S::add(value, Whole ? S::load(residual) : S::load_first(residual, n));
    value = S::clip(value, bounds);
    if (Whole) {
      S::store(y, value);
    } else {
      S::store_first(y, n, value);
    }
  }

  NESTED_SPARSE_INLINE void store_row(const Vec (&row)[P], int64_t r, int64_t output) {
    float* const y = args.y + output * args.y_pitch;
    const float* const residual = args.residual == nullptr ? nullptr : args.residual + output * args.y_pitch;
    const Vec scale = S::splat(args.weight.scale[r]);
    const Vec shift = S::splat(args.weight.shift[r]);
    NESTED_SPARSE_UNROLL
    for (int i = 0; i < P; ++i) {
      const Vec value = S::fma(scale, row[i], shift);
      if (F == Fill::squeezed) {
        const PixelPlace place = args.places[first_vector + i];
        const int n = __builtin_popcount(place.mask);
        const float* const from = residual == nullptr ? nullptr : residual + place.position;
        finish<false>(S::squeeze(value, place.mask), y + place.position, from, n);
        continue;
      }
      const int64_t position = (first_vector + i) * S::kLanes;
      const float* const from = residual == nullptr ? nullptr : residual + position;
      if (F == Fill::rest && i == P - 1) {
        finish<false>(value, y + position, from, rest);
      } else {
        finish<true>(value, y + position, from, S::kLanes);
      }
    }
  }

  NESTED_SPARSE_INLINE void run(int64_t group, int row) {
    NESTED_SPARSE_UNROLL
    for (int r = 0; r < R; ++r) {
      NESTED_SPARSE_UNROLL
      for (int i = 0; i < P; ++i) sums[r][i] = S::zero();
    }
    for (int32_t l = 0; l < args.weight.level_count; ++l) accumulate(args.weight.levels[l], group, row);
    NESTED_SPARSE_UNROLL
    for (int r = 0; r < R; ++r) {
      const int64_t packed_row = group * V + row + r;
      const int64_t output = output_of(args.weight, packed_row);
      if (output >= 0) store_row(sums[r], packed_row, output);
    }
  }
};

template <class S, int V, int R, int P, Fill F, class Index>
void spmm_tile(const SpmmArgs& args, int64_t group_begin, int64_t group_end, int64_t first_vector, int rest) {
  const typename S::Bounds bounds{S::splat(args.clip.lo), S::splat(args.clip.hi)};
  for (int64_t group = group_begin; group < group_end; ++group) {
    for (int row = 0; row < V; row += R) {
      Tile<S, V, R, P, F, Index> tile{args, first_vector, rest, bounds, {}};
      tile.run(group, row);
    }
  }
}

// Picks the tile of exactly `vectors` vectors, P at most.
template <class S, int V, int R, int P, class Index>
void spmm_tile_of(int64_t vectors, const SpmmArgs& args, int64_t group_begin, int64_t group_end, int64_t first_vector) {
  if (vectors < P) {
    if constexpr (P > 1) spmm_tile_of<S, V, R, P - 1, Index>(vectors, args, group_begin, group_end, first_vector);
    return;
  }
  const int rest = static_cast<int>(args.pixels - (first_vector + P - 1) * S::kLanes);
  if (args.places != nullptr) {
    spmm_tile<S, V, R, P, Fill::squeezed, Index>(args, group_begin, group_end, first_vector, rest);
  } else if (rest < S::kLanes) {
    spmm_tile<S, V, R, P, Fill::rest, Index>(args, group_begin, group_end, first_vector, rest);
  } else {
    spmm_tile<S, V, R, P, Fill::whole, Index>(args, group_begin, group_end, first_vector, rest);
  }
}

// The kernel: tiles of nearly equal width, the tiles of a group one after the other so that y is written in long runs.
template <class S, int V, int R, int P, class Index>
NESTED_SPARSE_INLINE void spmm(const SpmmArgs& args, int64_t group_begin, int64_t group_end, int64_t vector_begin,
                               int64_t vector_end) {
  const int64_t vectors = vector_end - vector_begin;
  const int64_t tiles = (vectors + P - 1) / P;
  if (tiles == 1) {
    spmm_tile_of<S, V, R, P, Index>(vectors, args, group_begin, group_end, vector_begin);
    return;
  }
  for (int64_t group = group_begin; group < group_end; ++group) {
    int64_t first = vector_begin;
    for (int64_t tile = 1; tile <= tiles; ++tile) {
      const int64_t end = vector_begin + vectors * tile / tiles;
      spmm_tile_of<S, V, R, P, Index>(end - first, args, group, group + 1, first);
      first = end;
    }
  }
}

}  // namespace
}  // namespace nested_sparse
