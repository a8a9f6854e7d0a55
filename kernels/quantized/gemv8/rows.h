// The kernels of gemv8.h, written once over a vector type W. The file of each instruction set includes it. Everything
// is in an unnamed namespace: the linker must never let callers of one instruction set use code compiled for another.
//
// W has kLanes sums of type Sum, one for each of kLanes rows: Vec, Input (what x holds at a quad's columns), zero,
// input, dot(sums, weights of kLanes rows, input), store, kStreams, and kBias, which it subtracts from every byte of x.
#pragma once

#include <algorithm>
#include <limits>
#include <type_traits>

#include "gemv8.h"

namespace nested_sparse {
namespace {

// Distance in bytes from the weights in use to those that are fetched early: the hardware's prefetchers alone stop at
// every page. From the third cache it gains nothing, from memory a fifth; 1024 and 4096 bytes are no better, nor is
// fetching into the second cache only, nor fetching columns.
constexpr int kPrefetch = 2048;

// Two vectors of W as one of twice the rows.
template <class W>
struct Twice {
  struct Vec {
    typename W::Vec low, high;
  };
  using Input = typename W::Input;
  using Sum = typename W::Sum;
  static constexpr int kLanes = 2 * W::kLanes;
  static constexpr int kStreams = (W::kStreams + 1) / 2;
  static constexpr int32_t kBias = W::kBias;
  static Vec zero() { return {W::zero(), W::zero()}; }
  template <class X>
  static Input input(const X* x, const uint16_t* col) {
    return W::input(x, col);
  }
  static Vec dot(Vec sums, const int8_t* val, Input x) {
    return {W::dot(sums.low, val, x), W::dot(sums.high, val + 4 * W::kLanes, x)};
  }
  static void store(Sum* to, Vec sums) {
    W::store(to, sums.low);
    W::store(to + W::kLanes, sums.high);
  }
};

// The vector for blocks of V rows: Four also holds the quads of several blocks of one or two rows.
template <int V, class Four, class Eight, class Sixteen>
using VectorOf = std::conditional_t<V == 16, Sixteen, std::conditional_t<V == 8, Eight, Four>>;

// Adds one quad to the sums of its V rows without a vector.
template <class W, int V, class X>
void add_quad(const int8_t* val, const X* x, const uint16_t* col, typename W::Sum* totals) {
  using Sum = typename W::Sum;
  for (int j = 0; j < 4 * V; ++j) {
    totals[j / 4] += static_cast<Sum>(val[j]) * (static_cast<Sum>(x[col[j % 4]]) - static_cast<Sum>(W::kBias));
  }
}

// The outputs of the `count` rows from `first` on, from their sums.
inline void finish(const Gemv8Args& args, int32_t bias, int64_t first, int64_t count, const uint32_t* sums) {
  const auto missing = static_cast<uint32_t>(bias - args.x_zero);
  for (int64_t i = 0; i < count; ++i) {
    args.sums[first + i] = static_cast<int32_t>(sums[i] + missing * static_cast<uint32_t>(args.row_sums[first + i]));
  }
}

inline void finish(const Gemv8FloatArgs& args, int32_t, int64_t first, int64_t count, const float* sums) {
  std::copy_n(sums, count, args.sums + first);
}

// The groups `first`, `first + stride` and so on, one for each of `Streams`: groups that lie far apart are read at
// once, which from memory takes four fifths of the time of one stream (4096 x 4096 at 25 %, V = 16: 0.19 ms and 0.23
// ms).
//
// A vector holds the values of kQuads quads: one where V fills it. Each quad has a sum of its own. The whole vector
// times the quad's input is added to that sum, of which only the quad's own V lanes are used; so inputs need not be
// gathered into a vector. Two sums at least hide the latency of the multiply-add.
template <class W, int V, int Streams, class Args>
void gemv8_streams(const Args& args, int64_t first, int64_t stride) {
  static_assert(W::kLanes % V == 0, "a vector holds whole quads");
  using Sum = typename W::Sum;
  constexpr int kQuads = W::kLanes / V;
  constexpr int kSums = std::max(kQuads, 2);
  constexpr int kValues = 4 * V;  // of a quad
  const auto* const x = args.x;
  typename W::Vec sums[Streams][kSums];
  Sum totals[Streams][V] = {};
  for (auto& each : sums) std::fill_n(each, kSums, W::zero());
  for (int32_t l = 0; l < args.level_count; ++l) {
    const QuadLevel& level = args.levels[l];
    const int8_t* val[Streams];
    const uint16_t* col[Streams];
    int64_t count[Streams];
    int64_t common = std::numeric_limits<int64_t>::max();
    for (int k = 0; k < Streams; ++k) {
      const int64_t begin = level.ptr[first + k * stride];
      count[k] = level.ptr[first + k * stride + 1] - begin;
      val[k] = level.val + begin * kValues;
      col[k] = level.col + begin * 4;
      common = std::min(common, count[k] / kSums);
    }
    const auto step = [&](int k) {
      for (int ahead = 0; ahead < kSums * kValues; ahead += 64) __builtin_prefetch(val[k] + kPrefetch + ahead);
#pragma GCC unroll 4
      for (int s = 0; s < kSums; ++s) {
        sums[k][s] = W::dot(sums[k][s], val[k] + s / kQuads * kQuads * kValues, W::input(x, col[k] + 4 * s));
      }
      val[k] += kSums * kValues;
      col[k] += 4 * kSums;
    };
    for (int64_t i = 0; i < common; ++i) {
#pragma GCC unroll 4
      for (int k = 0; k < Streams; ++k) step(k);
    }
#pragma GCC unroll 4
    for (int k = 0; k < Streams; ++k) {
      for (int64_t i = common; i < count[k] / kSums; ++i) step(k);
      for (int64_t i = 0; i < count[k] % kSums; ++i) {
        if constexpr (kQuads == 1) {
          sums[k][0] = W::dot(sums[k][0], val[k] + i * kValues, W::input(x, col[k] + 4 * i));
        } else {
          add_quad<W, V>(val[k] + i * kValues, x, col[k] + 4 * i, totals[k]);
        }
      }
    }
  }
  for (int k = 0; k < Streams; ++k) {
    for (int s = 0; s < kSums; ++s) {
      Sum lanes[W::kLanes];
      W::store(lanes, sums[k][s]);
      for (int v = 0; v < V; ++v) totals[k][v] += lanes[s % kQuads * V + v];
    }
    finish(args, W::kBias, (first + k * stride) * V, V, totals[k]);
  }
}

template <class W, int V, class Args>
void gemv8(const Args& args, int64_t group_begin, int64_t group_end) {
  const int64_t stride = (group_end - group_begin) / W::kStreams;
  for (int64_t i = 0; i < stride; ++i) gemv8_streams<W, V, W::kStreams>(args, group_begin + i, stride);
  for (int64_t group = group_begin + W::kStreams * stride; group < group_end; ++group) {
    gemv8_streams<W, V, 1>(args, group, 0);
  }
}

}  // namespace
}  // namespace nested_sparse
