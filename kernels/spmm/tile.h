// The microkernel of spmm.h, written once over a vector type S. The file of each instruction set includes it.
// Everything is in an unnamed namespace: the linker must never let callers of one instruction set use code compiled for
// another.
//
// S provides Vec, Bounds (lo, hi), kLanes, zero, load, load_first(p, n), broadcast(p), splat, fma(a, b, c) where a
// comes from broadcast or splat, add, clip, store, store_first(p, n, v), and kFetchEarly: whether to fetch pixels a few
// blocks early.
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

// Distance in floats from the value in use to the value that is fetched early. It saves 2 to 5 % of the time of
// ResNet-50. A larger distance gains nothing, and for V < 4 no early fetch does.
constexpr int kPrefetch = 128;

// Distance in blocks from the block in use to the block whose pixels are fetched early, from L2 into L1. It
// saves 8 % of the time of ResNet-50, and a third of a 3 x 3 layer over 512 channels. Distances of 2 and 8
// are no better. For V = 1, where each vector is used once, an early fetch costs a fifth. A fetch of the next tile's
// pixels from L3, a part of them with every group, made some of the layers that it was meant for up to 60
// % slower.
constexpr int kAhead = 4;

// The sums of R rows of a group by P vectors of pixels. They stay in registers from the first level to the store. Where
// `Rest` is true, the last vector holds only `rest` pixels.
template <class S, int V, int R, int P, bool Rest, class Index>
struct Tile {
  using Vec = typename S::Vec;

  // A tile of one vector lies in L1: fetching its pixels early takes as many loads as using them.
  static constexpr int kFetched = P > 1 ? kAhead : 0;
  // Few sums are few chains of multiply-adds, and each waits for the one before it. So they are kept several times
  // then, for blocks in turns. A linear layer of 128 x 128, V = 4, over 8 vectors at 35 % takes 2.8 in place of 3.5 µs
  // by both and by a transposition of four by four floats.
  static constexpr int kTurns = P > 3 || R* P >= 8 ? 1 : R * P >= 4 ? 2 : 4;

  const SpmmArgs& args;
  const int64_t first;  // pixel
  const int rest;
  const typename S::Bounds bounds;
  Vec sums[kTurns][R][P];

  NESTED_SPARSE_INLINE void accumulate(const PackedLevel& level, const BlockPart& part, int row) {
    const uint32_t* const range = level.ptr + part.group * args.ptr_stride;
    const uint32_t begin = range[0];
    const uint32_t end = range[1];
    const Index* col = static_cast<const Index*>(level.col) + begin;
    const Index* const col_end = static_cast<const Index*>(level.col) + end;
    const int64_t values = part.values;
    const float* val = values_of<float>(level) + begin * values + part.first + row;
    // The pitch is in bytes; with a pitch in floats, the compiler multiplies by four again for every block.
    const char* const pixels = reinterpret_cast<const char*>(args.x + first);
    const int64_t pitch = args.x_pitch * static_cast<int64_t>(sizeof(float));
    // Two loops, because the early fetch must not read past the last column.
    const Index* const early_end = col_end - col > kFetched ? col_end - kFetched : col;
    if constexpr (kTurns > 1) {
      for (; early_end - col >= kTurns; col += kTurns, val += kTurns * values) {
        NESTED_SPARSE_UNROLL
        for (int turn = 0; turn < kTurns; ++turn) {
          fetch(pixels + static_cast<int64_t>(col[kFetched + turn]) * pitch);
          multiply(reinterpret_cast<const float*>(pixels + static_cast<int64_t>(col[turn]) * pitch),
                   val + turn * values, turn);
        }
      }
    }
    for (; col != early_end; ++col, val += values) {
      fetch(pixels + static_cast<int64_t>(col[kFetched]) * pitch);
      multiply(reinterpret_cast<const float*>(pixels + static_cast<int64_t>(*col) * pitch), val, 0);
    }
    for (; col != col_end; ++col, val += values) {
      multiply(reinterpret_cast<const float*>(pixels + static_cast<int64_t>(*col) * pitch), val, 0);
    }
  }

  NESTED_SPARSE_INLINE void fetch(const char* ahead) {
    NESTED_SPARSE_UNROLL
    for (int i = 0; S::kFetchEarly && V > 1 && kFetched > 0 && i < P; ++i) __builtin_prefetch(ahead + i * sizeof(Vec));
  }

  NESTED_SPARSE_INLINE void multiply(const float* x, const float* val, int turn) {
    if (V >= 4 && turn == 0) __builtin_prefetch(val + kPrefetch);
    Vec in[P];
    NESTED_SPARSE_UNROLL
    for (int i = 0; i < P; ++i) in[i] = S::load(x + i * S::kLanes);
    NESTED_SPARSE_UNROLL
    for (int r = 0; r < R; ++r) {
      const Vec weight = S::broadcast(val + r);
      NESTED_SPARSE_UNROLL
      for (int i = 0; i < P; ++i) sums[turn][r][i] = S::fma(weight, in[i], sums[turn][r][i]);
    }
  }

  NESTED_SPARSE_INLINE void store_row(const Vec (&row)[P], int64_t r, int64_t output) {
    float* const y = args.y + output * args.y_pitch + first;
    const float* const residual =
        args.residual == nullptr ? nullptr : args.residual + output * args.residual_pitch + first;
    const Vec scale = S::splat(args.weight.scale[r]);
    const Vec shift = S::splat(args.weight.shift[r]);
    NESTED_SPARSE_UNROLL
    for (int i = 0; i < P; ++i) {
      const bool part = Rest && i == P - 1;
      const int64_t at = i * S::kLanes;
      Vec value = S::fma(scale, row[i], shift);
      if (residual != nullptr)
        value = S::add(value, part ? S::load_first(residual + at, rest) : S::load(residual + at));
      value = S::clip(value, bounds);
      if (part && !args.y_whole) {
        S::store_first(y + at, rest, value);
      } else {
        S::store(y + at, value);
      }
    }
  }

  float* carried(int64_t packed_row) const { return args.sums + packed_row * args.x_pitch + first; }

  NESTED_SPARSE_INLINE void start(int64_t packed_row) {
    NESTED_SPARSE_UNROLL
    for (int r = 0; r < R; ++r) {
      NESTED_SPARSE_UNROLL
      for (int i = 0; i < P; ++i) {
        sums[0][r][i] = args.first ? S::zero() : S::load(carried(packed_row + r) + i * S::kLanes);
        NESTED_SPARSE_UNROLL
        for (int turn = 1; turn < kTurns; ++turn) sums[turn][r][i] = S::zero();
      }
    }
  }

  NESTED_SPARSE_INLINE void finish(int64_t packed_row) {
    NESTED_SPARSE_UNROLL
    for (int r = 0; r < R; ++r) {
      NESTED_SPARSE_UNROLL
      for (int turn = 1; turn < kTurns; ++turn) {
        NESTED_SPARSE_UNROLL
        for (int i = 0; i < P; ++i) sums[0][r][i] = S::add(sums[0][r][i], sums[turn][r][i]);
      }
      if (!args.last) {
        NESTED_SPARSE_UNROLL
        for (int i = 0; i < P; ++i) S::store(carried(packed_row + r) + i * S::kLanes, sums[0][r][i]);
        continue;
      }
      const int64_t output = output_of(args.weight, packed_row + r);
      if (output >= 0) store_row(sums[0][r], packed_row + r, output);
    }
  }

  NESTED_SPARSE_INLINE void run(int64_t group, int row) {
    const BlockPart part = block_part<V>(args.weight, group);
    start(group * V + row);
    for (int32_t l = 0; l < args.weight.level_count; ++l) accumulate(args.weight.levels[l], part, row);
    finish(group * V + row);
  }
};

// The groups of `spmm` for blocks: groups of V rows, R rows in registers at a time.
template <class S, int V, int R, class Index>
struct Blocks {
  template <int P, bool Rest>
  static void run(const SpmmArgs& args, int64_t group_begin, int64_t group_end, int64_t first, int rest) {
    const typename S::Bounds bounds{S::splat(args.clip.lo), S::splat(args.clip.hi)};
    for (int64_t group = group_begin; group < group_end; ++group) {
      for (int row = 0; row < V; row += R) {
        Tile<S, V, R, P, Rest, Index> tile{args, first, rest, bounds, {}};
        tile.run(group, row);
      }
    }
  }
};

// Runs the tile of exactly `vectors` vectors, at most P.
template <class S, class Groups, int P>
void spmm_tile(int64_t vectors, const SpmmArgs& args, int64_t group_begin, int64_t group_end, int64_t first) {
  if (vectors < P) {
    if constexpr (P > 1) spmm_tile<S, Groups, P - 1>(vectors, args, group_begin, group_end, first);
    return;
  }
  const int64_t rest = args.pixels - first - (P - 1) * S::kLanes;
  if (rest < S::kLanes) {
    Groups::template run<P, true>(args, group_begin, group_end, first, static_cast<int>(rest));
  } else {
    Groups::template run<P, false>(args, group_begin, group_end, first, S::kLanes);
  }
}

// The kernel for float32 values. It takes the pixels in tiles of nearly equal width; a tile stays in L1 for all row
// groups. Groups: Blocks, or GatherGroups of gather_groups.h.
template <class S, class Groups, int P>
void spmm(const SpmmArgs& args, int64_t group_begin, int64_t group_end) {
  const int64_t vectors = (args.pixels + S::kLanes - 1) / S::kLanes;
  const int64_t tiles = (vectors + P - 1) / P;
  for (int64_t tile = 0; tile < tiles; ++tile) {
    const int64_t first = vectors * tile / tiles;
    const int64_t end = vectors * (tile + 1) / tiles;
    spmm_tile<S, Groups, P>(end - first, args, group_begin, group_end, first * S::kLanes);
  }
}

}  // namespace
}  // namespace nested_sparse
