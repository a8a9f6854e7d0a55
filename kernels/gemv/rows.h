// The kernels of gemv.h, written once over vector types; each instruction set's file includes it. Everything is in an
// unnamed namespace: code compiled for one instruction set must never be linked into another's callers.
#pragma once

#include <cstring>

#include "gemv.h"

namespace nested_sparse {
namespace {

// Floats from the value in use to the one fetched early: the hardware's prefetchers stop at every page.
constexpr int kPrefetch = 1024;

// Blocks of V = 4, 8 or 16 rows: one vector holds a block, its column's input is broadcast. Four sums hide the latency
// of the multiply-add. W gives Vec, kRows, zero, load, fma(vec, scalar pointer, vec), add, store.
template <class W, class Index>
void gemv_broadcast(const GemvArgs& args, int64_t group_begin, int64_t group_end) {
  constexpr int V = W::kRows;
  using Vec = typename W::Vec;
  const float* const x = args.x;
  for (int64_t group = group_begin; group < group_end; ++group) {
    Vec s0 = W::zero(), s1 = W::zero(), s2 = W::zero(), s3 = W::zero();
    for (int32_t l = 0; l < args.weight.level_count; ++l) {
      const PackedLevel& level = args.weight.levels[l];
      const uint32_t begin = level.ptr[group];
      int64_t left = static_cast<int64_t>(level.ptr[group + 1]) - begin;
      const Index* col = static_cast<const Index*>(level.col) + begin;
      const float* val = level.val + static_cast<int64_t>(begin) * V;
      for (; left >= 4; left -= 4, col += 4, val += 4 * V) {
        for (int ahead = 0; ahead < 4 * V; ahead += 16) __builtin_prefetch(val + kPrefetch + ahead);
        s0 = W::fma(W::load(val), x + col[0], s0);
        s1 = W::fma(W::load(val + V), x + col[1], s1);
        s2 = W::fma(W::load(val + 2 * V), x + col[2], s2);
        s3 = W::fma(W::load(val + 3 * V), x + col[3], s3);
      }
      for (; left > 0; --left, ++col, val += V) s0 = W::fma(W::load(val), x + col[0], s0);
    }
    float sums[V];
    W::store(sums, W::add(W::add(s0, s1), W::add(s2, s3)));
    gemv_store<V>(args, group, sums);
  }
}

// Column indices of 8 bytes.
template <class Index>
constexpr int kTogether = 8 / static_cast<int>(sizeof(Index));

// Single columns (V = 1) or pairs of rows (V = 2): a vector of W::kRows lanes holds the values of kBlocks blocks. Each
// block has a sum of its own, to which the whole vector times its input is added; only the block's own V lanes of that
// are ever looked at. So nothing is gathered: a gather of 16 floats takes some 35 cycles on processors that guard it
// against speculation, this about 13 (4096 x 4096 at 25 %, GS(16, 1): 2.75 ms with gathers, 1.9 ms so).
template <class W, int V>
struct Diagonal {
  static constexpr int kBlocks = W::kRows / V;
  typename W::Vec sums[kBlocks];

  Diagonal() {
    for (int i = 0; i < kBlocks; ++i) sums[i] = W::zero();
  }

  // `steps` vectors of values from val on, every `stride` blocks.
  template <class Index>
  void add(const float* x, const float* val, const Index* col, int64_t steps, int stride) {
    for (; steps > 0; --steps, val += stride * V, col += stride) {
      for (int ahead = 0; ahead < W::kRows; ahead += 16) __builtin_prefetch(val + kPrefetch + ahead);
      __builtin_prefetch(col + kPrefetch);
      const typename W::Vec values = W::load(val);
      for (int i = 0; i < kBlocks; i += kTogether<Index>) {
        uint64_t columns;  // one load for several: the load ports are what this loop waits for
        std::memcpy(&columns, col + i, sizeof columns);
        for (int j = i; j < i + kTogether<Index>; ++j, columns >>= 8 * sizeof(Index)) {
          sums[j] = W::fma(values, x + static_cast<Index>(columns), sums[j]);
        }
      }
    }
  }

  // Adds what lane i holds to totals[i], for all lanes.
  void store(float* totals) const {
    for (int i = 0; i < kBlocks; ++i) {
      float lanes[W::kRows];
      W::store(lanes, sums[i]);
      for (int v = 0; v < V; ++v) totals[i * V + v] += lanes[i * V + v];
    }
  }
};

// Blocks of V = 1 or 2 rows.
template <class W, int V, class Index>
void gemv_diagonal(const GemvArgs& args, int64_t group_begin, int64_t group_end) {
  constexpr int kBlocks = Diagonal<W, V>::kBlocks;
  for (int64_t group = group_begin; group < group_end; ++group) {
    Diagonal<W, V> diagonal;
    float sums[V] = {};
    for (int32_t l = 0; l < args.weight.level_count; ++l) {
      const PackedLevel& level = args.weight.levels[l];
      const uint32_t begin = level.ptr[group];
      const int64_t count = static_cast<int64_t>(level.ptr[group + 1]) - begin;
      const Index* col = static_cast<const Index*>(level.col) + begin;
      const float* val = level.val + static_cast<int64_t>(begin) * V;
      diagonal.add(args.x, val, col, count / kBlocks, kBlocks);
      for (int64_t j = count / kBlocks * kBlocks; j < count; ++j) {
        for (int v = 0; v < V; ++v) sums[v] += val[j * V + v] * args.x[col[j]];
      }
    }
    float lanes[W::kRows] = {};
    diagonal.store(lanes);
    for (int i = 0; i < W::kRows; ++i) sums[i % V] += lanes[i];
    gemv_store<V>(args, group, sums);
  }
}

}  // namespace
}  // namespace nested_sparse
