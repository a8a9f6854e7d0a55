// The kernels of spmm8.h, written once over a vector type S. The file of each instruction set includes it. Everything
// is in an unnamed namespace: the linker must never let callers of one instruction set use code compiled for another.
//
// S has kPixels pixels of one row; the loops take the pixels of a tile so many at a time. S provides
//
//   Sums, Weights<R>           the sums of kPixels pixels; the weights of R rows
//   start(bias)                sums
//   quad(a, b, c, d)           registers `of`, from the first pixels of four columns
//   weights<R>(val)            of rows that lie four bytes apart
//   multiply(sums, quad, weights, r)
//   store_sums(to, sums)
//
// and for the epilogue
//
//   Words, Bytes               kPixels integers of 16 and 8 bits
//   Limits                     lo, hi and the residual's multiplier, as vectors
//   words(sums, shift)         saturated
//   scaled(words, multiplier)
//   added(words, residual, limits)
//   bytes(words, limits)
//   looked_up(bytes, table, limits), selected(keep, bytes, pad), store(to, bytes)
//
// kRows: rows of a group whose sums are in registers at once. kSubtracted: the number that `quad` subtracts from every
// pixel; where it is not 0, add_weights(sums, val) adds up the weights of R rows.
#pragma once

#include <algorithm>

#include "spmm8.h"

#if defined(__clang__)
#define NESTED_SPARSE_UNROLL _Pragma("unroll")
#else
#define NESTED_SPARSE_UNROLL _Pragma("GCC unroll 16")
#endif
#define NESTED_SPARSE_ALWAYS __attribute__((always_inline))
#define NESTED_SPARSE_INLINE inline NESTED_SPARSE_ALWAYS

namespace nested_sparse {
namespace {

// Where the pixels of columns lie.
struct Tiled {
  const uint8_t* x;
  NESTED_SPARSE_INLINE const uint8_t* operator()(uint16_t column) const { return x + static_cast<size_t>(column) * 64; }
};

struct Placed {
  const uint8_t* x;
  const int32_t* offsets;
  NESTED_SPARSE_INLINE const uint8_t* operator()(uint16_t column) const { return x + offsets[column]; }
};

template <class S>
using QuadOf = decltype(S::quad(nullptr, nullptr, nullptr, nullptr));

// gcc copies a whole struct in pieces of 16 bytes, from which a load of a register must wait for memory.
template <class Quad>
NESTED_SPARSE_INLINE void copy(const Quad& from, Quad& to) {
  NESTED_SPARSE_UNROLL
  for (size_t i = 0; i < sizeof from.of / sizeof from.of[0]; ++i) to.of[i] = from.of[i];
}

// Adds the quads of R rows of a group of V, from `row` on. Keep: the quads are written to `kept`, too.
template <class S, int V, bool Keep, int R, class Args, class Columns>
NESTED_SPARSE_INLINE void accumulate(const Args& args, Columns pixels, int64_t group, int row,
                                     typename S::Sums (&sums)[R], [[maybe_unused]] QuadOf<S>* kept) {
  for (int32_t l = 0; l < args.level_count; ++l) {
    const QuadLevel level = args.levels[l];
    const int64_t begin = level.ptr[group];
    const uint16_t* col = level.col + 4 * begin;
    const uint16_t* const end = level.col + 4 * static_cast<int64_t>(level.ptr[group + 1]);
    const int8_t* val = level.val + 4 * (V * begin + row);
    for (; col != end; col += 4, val += 4 * V) {
      const auto quad = S::quad(pixels(col[0]), pixels(col[1]), pixels(col[2]), pixels(col[3]));
      if constexpr (Keep) copy(quad, *kept++);
      const auto weights = S::template weights<R>(val);
      NESTED_SPARSE_UNROLL
      for (int r = 0; r < R; ++r) S::multiply(sums[r], quad, weights, r);
    }
  }
}

// Writes the quads of a group.
template <class S, class Args, class Columns>
NESTED_SPARSE_INLINE void order(const Args& args, Columns pixels, int64_t group, QuadOf<S>* quads) {
  for (int32_t l = 0; l < args.level_count; ++l) {
    const QuadLevel level = args.levels[l];
    const uint16_t* col = level.col + 4 * static_cast<int64_t>(level.ptr[group]);
    const uint16_t* const end = level.col + 4 * static_cast<int64_t>(level.ptr[group + 1]);
    for (; col != end; col += 4) {
      copy(S::quad(pixels(col[0]), pixels(col[1]), pixels(col[2]), pixels(col[3])), *quads++);
    }
  }
}

// Adds quads that were written before.
template <class S, int V, int R, class Args>
NESTED_SPARSE_INLINE void accumulate_ordered(const Args& args, const QuadOf<S>* quads, int64_t group, int row,
                                             typename S::Sums (&sums)[R]) {
  for (int32_t l = 0; l < args.level_count; ++l) {
    const QuadLevel level = args.levels[l];
    const int64_t begin = level.ptr[group];
    const int8_t* val = level.val + 4 * (V * begin + row);
    for (const auto* const end = quads + (level.ptr[group + 1] - begin); quads != end; ++quads, val += 4 * V) {
      QuadOf<S> quad;
      copy(*quads, quad);
      const auto weights = S::template weights<R>(val);
      NESTED_SPARSE_UNROLL
      for (int r = 0; r < R; ++r) S::multiply(sums[r], quad, weights, r);
    }
  }
}

template <class Args>
int64_t count_quads(const Args& args, int64_t group) {
  int64_t count = 0;
  for (int32_t l = 0; l < args.level_count; ++l) count += args.levels[l].ptr[group + 1] - args.levels[l].ptr[group];
  return count;
}

// Computes one row's bytes of S::kPixels pixels from pixel `first` of the tile on.
template <class S>
NESTED_SPARSE_INLINE void finish(const Spmm8Args& args, const typename S::Limits& limits, const typename S::Sums& sums,
                                 int64_t row, int32_t first) {
  const int64_t output = output_of(args, row);
  if (output < 0) return;
  auto words = S::scaled(S::words(sums, args.shift + row), args.multiplier[row]);
  if (args.residual != nullptr) {
    words = S::added(words, args.residual + output * args.residual_pitch + first, limits);
  }
  auto bytes = S::bytes(words, limits);
  if (args.table != nullptr) bytes = S::looked_up(bytes, args.table, limits);
  if (args.masked) bytes = S::selected(args.keep >> first, bytes, args.pad);
  S::store(args.y + output * args.y_pitch + first, bytes);
}

template <class S>
NESTED_SPARSE_INLINE void finish(const Sums8Args& args, const typename S::Limits&, const typename S::Sums& sums,
                                 int64_t row, int32_t first) {
  S::store_sums(args.sums + row * args.sums_pitch + first, sums);
}

NESTED_SPARSE_INLINE int32_t bias_of(const Spmm8Args& args, int64_t row) {
  return args.bias[row];
}
NESTED_SPARSE_INLINE int32_t bias_of(const Sums8Args&, int64_t) {
  return 0;
}

// The numbers that the sums of a group's V rows start with.
template <class S, int V, class Args>
NESTED_SPARSE_INLINE void start_group(const Args& args, int64_t group, int32_t (&starts)[V]) {
  if constexpr (S::kSubtracted == 0) {
    for (int v = 0; v < V; ++v) starts[v] = bias_of(args, group * V + v);
  } else {
    constexpr int R = std::min(V, S::kRows);
    for (int row = 0; row < V; row += R) {
      int32_t sums[R] = {};
      for (int32_t l = 0; l < args.level_count; ++l) {
        const QuadLevel level = args.levels[l];
        for (int64_t j = level.ptr[group]; j < level.ptr[group + 1]; ++j) {
          S::add_weights(sums, level.val + 4 * (V * j + row));
        }
      }
      for (int r = 0; r < R; ++r) starts[row + r] = bias_of(args, group * V + row + r) + S::kSubtracted * sums[r];
    }
  }
}

NESTED_SPARSE_INLINE int64_t group_step(const Spmm8Args& args) {
  return args.x_group_step;
}
NESTED_SPARSE_INLINE int64_t group_step(const Sums8Args&) {
  return 0;
}

template <class S>
typename S::Limits limits_of(const Spmm8Args& args) {
  return S::limits(args.lo, args.hi, args.residual_multiplier);
}
template <class S>
typename S::Limits limits_of(const Sums8Args&) {
  return S::limits(0, 255, 0);
}

// Computes R rows of a group, from `row` on, for S::kPixels pixels of a tile, from pixel `first` on. add(sums) adds the
// products.
template <class S, int R, int V, class Args, class Add>
NESTED_SPARSE_INLINE void run_rows(const Args& args, const typename S::Limits& limits, const int32_t (&starts)[V],
                                   int64_t group, int row, int32_t first, const Add& add) {
  typename S::Sums sums[R];
  NESTED_SPARSE_UNROLL
  for (int r = 0; r < R; ++r) sums[r] = S::start(starts[row + r]);
  add(sums);
  NESTED_SPARSE_UNROLL
  for (int r = 0; r < R; ++r) finish<S>(args, limits, sums[r], group * V + row + r, first);
}

// The first rows of a group of more rows than fit into registers leave their quads to the others, if they fit into this
// many bytes. With V = 16 that takes three quarters of the time.
constexpr int64_t kKeptBytes = 65536;

template <class S, int V, class Args, class Columns>
NESTED_SPARSE_INLINE void run_groups(const Args& args, Columns pixels, int64_t group_begin, int64_t group_end) {
  constexpr int R = std::min(V, S::kRows);
  constexpr int64_t kMostKept = V > R ? kKeptBytes / sizeof(QuadOf<S>) : 1;
  alignas(64) QuadOf<S> kept[kMostKept];
  using Sums = typename S::Sums[R];
  const typename S::Limits limits = limits_of<S>(args);
  pixels.x += group_begin * group_step(args);
  for (int64_t group = group_begin; group < group_end; ++group, pixels.x += group_step(args)) {
    const bool keeps = V > R && count_quads(args, group) <= kMostKept;
    int32_t starts[V];
    start_group<S>(args, group, starts);
    for (int32_t first = 0; first < args.pixels; first += S::kPixels) {
      Columns from = pixels;
      from.x += first;
      if (!keeps) {
        for (int row = 0; row < V; row += R) {
          run_rows<S, R>(args, limits, starts, group, row, first, [&](Sums& sums) NESTED_SPARSE_ALWAYS {
            accumulate<S, V, false>(args, from, group, row, sums, kept);
          });
        }
        continue;
      }
      run_rows<S, R>(args, limits, starts, group, 0, first, [&](Sums& sums) NESTED_SPARSE_ALWAYS {
        accumulate<S, V, true>(args, from, group, 0, sums, kept);
      });
      for (int row = R; row < V; row += R) {
        run_rows<S, R>(args, limits, starts, group, row, first, [&](Sums& sums) NESTED_SPARSE_ALWAYS {
          accumulate_ordered<S, V>(args, kept, group, row, sums);
        });
      }
    }
  }
}

// The same where all groups have the same quads: their pixels are brought into order once for all groups.
template <class S, int V, class Columns>
NESTED_SPARSE_INLINE void run_shared(const Spmm8Args& args, Columns pixels, int64_t group_begin, int64_t group_end) {
  constexpr int R = std::min(V, S::kRows);
  using Sums = typename S::Sums[R];
  static_assert(sizeof(QuadOf<S>) <= kSharedQuadBytes, "the caller's memory");
  const typename S::Limits limits = limits_of<S>(args);
  auto* const quads = reinterpret_cast<QuadOf<S>*>(args.shared_quads);
  for (int32_t first = 0; first < args.pixels; first += S::kPixels, pixels.x += S::kPixels) {
    order<S>(args, pixels, group_begin, quads);
    for (int64_t group = group_begin; group < group_end; ++group) {
      int32_t starts[V];
      start_group<S>(args, group, starts);
      for (int row = 0; row < V; row += R) {
        run_rows<S, R>(args, limits, starts, group, row, first, [&](Sums& sums) NESTED_SPARSE_ALWAYS {
          accumulate_ordered<S, V>(args, quads, group, row, sums);
        });
      }
    }
  }
}

template <class S, int V, class Columns>
NESTED_SPARSE_INLINE void run_any(const Spmm8Args& args, Columns pixels, int64_t group_begin, int64_t group_end) {
  if (args.shared_quads != nullptr) return run_shared<S, V>(args, pixels, group_begin, group_end);
  run_groups<S, V>(args, pixels, group_begin, group_end);
}
template <class S, int V, class Columns>
NESTED_SPARSE_INLINE void run_any(const Sums8Args& args, Columns pixels, int64_t group_begin, int64_t group_end) {
  run_groups<S, V>(args, pixels, group_begin, group_end);
}

// The arguments are copied: a store of bytes may change whatever a pointer leads to.
template <class S, int V, class Args>
void run_tile(const Args& given, int64_t group_begin, int64_t group_end) {
  const Args args = given;
  if (args.offsets == nullptr) {
    run_any<S, V>(args, Tiled{args.x}, group_begin, group_end);
  } else {
    run_any<S, V>(args, Placed{args.x, args.offsets}, group_begin, group_end);
  }
}

}  // namespace
}  // namespace nested_sparse

#define NESTED_SPARSE_SPMM8(symbol, sums_symbol, block_rows)                        \
  void symbol(const Spmm8Args& args, int64_t group_begin, int64_t group_end) {      \
    run<block_rows>(args, group_begin, group_end);                                  \
  }                                                                                 \
  void sums_symbol(const Sums8Args& args, int64_t group_begin, int64_t group_end) { \
    run<block_rows>(args, group_begin, group_end);                                  \
  }
