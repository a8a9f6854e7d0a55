// The kernels of spmm8.h, written once over a vector type S. The file of each instruction set includes it. Everything
// is in an unnamed namespace: the linker must never let callers of one instruction set use code compiled for another.
//
// S has kPixels pixels of one row; the loops take the pixels of a tile so many at a time. S provides
//
//   Sums, Quad, Weights<R>     the sums of kPixels pixels; the pixels of a quad's columns; the weights of R rows
//   start(bias)                sums
//   quad(a, b, c, d)           from the first pixels of four columns
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
// kRows: rows of a group whose sums are in registers at once.
#pragma once

#include <algorithm>

#include "spmm8.h"

#if defined(__clang__)
#define NESTED_SPARSE_UNROLL _Pragma("unroll")
#else
#define NESTED_SPARSE_UNROLL _Pragma("GCC unroll 16")
#endif
#define NESTED_SPARSE_INLINE inline __attribute__((always_inline))

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

// Adds the quads of R rows of a group of V, from `row` on.
template <class S, int V, int R, class Args, class Columns>
NESTED_SPARSE_INLINE void accumulate(const Args& args, Columns pixels, int64_t group, int row,
                                     typename S::Sums (&sums)[R]) {
  for (int32_t l = 0; l < args.level_count; ++l) {
    const QuadLevel level = args.levels[l];
    const int64_t begin = level.ptr[group];
    const uint16_t* col = level.col + 4 * begin;
    const uint16_t* const end = level.col + 4 * static_cast<int64_t>(level.ptr[group + 1]);
    const int8_t* val = level.val + 4 * (V * begin + row);
    for (; col != end; col += 4, val += 4 * V) {
      const auto quad = S::quad(pixels(col[0]), pixels(col[1]), pixels(col[2]), pixels(col[3]));
      const auto weights = S::template weights<R>(val);
      NESTED_SPARSE_UNROLL
      for (int r = 0; r < R; ++r) S::multiply(sums[r], quad, weights, r);
    }
  }
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

NESTED_SPARSE_INLINE int32_t start_of(const Spmm8Args& args, int64_t row) {
  return args.bias[row];
}
NESTED_SPARSE_INLINE int32_t start_of(const Sums8Args&, int64_t) {
  return 0;
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

// Computes the groups for S::kPixels pixels of a tile, from pixel `first` on. add(group, row, sums) adds the products.
template <class S, int V, class Args, class Add>
NESTED_SPARSE_INLINE void run_group(const Args& args, const typename S::Limits& limits, int64_t group, int32_t first,
                                    const Add& add) {
  constexpr int R = std::min(V, S::kRows);
  for (int row = 0; row < V; row += R) {
    typename S::Sums sums[R];
    NESTED_SPARSE_UNROLL
    for (int r = 0; r < R; ++r) sums[r] = S::start(start_of(args, group * V + row + r));
    add(row, sums);
    NESTED_SPARSE_UNROLL
    for (int r = 0; r < R; ++r) finish<S>(args, limits, sums[r], group * V + row + r, first);
  }
}

template <class S, int V, class Args, class Columns>
NESTED_SPARSE_INLINE void run_groups(const Args& args, Columns pixels, int64_t group_begin, int64_t group_end) {
  constexpr int R = std::min(V, S::kRows);
  const typename S::Limits limits = limits_of<S>(args);
  pixels.x += group_begin * group_step(args);
  for (int64_t group = group_begin; group < group_end; ++group, pixels.x += group_step(args)) {
    for (int32_t first = 0; first < args.pixels; first += S::kPixels) {
      Columns from = pixels;
      from.x += first;
      run_group<S, V>(args, limits, group, first, [&](int row, typename S::Sums(&sums)[R])
                      __attribute__((always_inline)) { accumulate<S, V>(args, from, group, row, sums); });
    }
  }
}

// The same where all groups have the same quads: their pixels are brought into order once for all groups.
template <class S, int V, class Columns>
NESTED_SPARSE_INLINE void run_shared(const Spmm8Args& args, Columns pixels, int64_t group_begin, int64_t group_end) {
  constexpr int R = std::min(V, S::kRows);
  using Quad = decltype(S::quad(args.x, args.x, args.x, args.x));
  const typename S::Limits limits = limits_of<S>(args);
  const QuadLevel level = args.levels[0];
  const int64_t count = level.ptr[1];
  auto* const quads = reinterpret_cast<Quad*>(args.shared_quads);
  for (int32_t first = 0; first < args.pixels; first += S::kPixels, pixels.x += S::kPixels) {
    const uint16_t* col = level.col;
    for (int64_t j = 0; j < count; ++j, col += 4) {
      quads[j] = S::quad(pixels(col[0]), pixels(col[1]), pixels(col[2]), pixels(col[3]));
    }
    for (int64_t group = group_begin; group < group_end; ++group) {
      const int8_t* const of_group = level.val + 4 * V * count * group;
      run_group<S, V>(args, limits, group, first, [&](int row, typename S::Sums(&sums)[R])
                      __attribute__((always_inline)) {
        const int8_t* val = of_group + 4 * row;
        for (int64_t j = 0; j < count; ++j, val += 4 * V) {
          const auto weights = S::template weights<R>(val);
          NESTED_SPARSE_UNROLL
          for (int r = 0; r < R; ++r) S::multiply(sums[r], quads[j], weights, r);
        }
      });
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
