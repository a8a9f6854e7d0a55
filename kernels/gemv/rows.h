// The kernels of gemv.h, written once over vector types; each instruction set's file includes it. Everything is in an
// unnamed namespace: code compiled for one instruction set must never be linked into another's callers.
#pragma once

#include "gemv.h"

namespace nested_sparse {
namespace {

// Floats from the value in use to the one fetched early: the hardware's prefetchers stop at every page.
constexpr int kPrefetch = 1024;

// Column indices of a cache line.
template <class Index>
constexpr int kLine = 64 / static_cast<int>(sizeof(Index));

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

// Blocks of V = 1 or 2 rows: a vector holds kLanes / V blocks, whose inputs are gathered. S gives Vec, kLanes, zero,
// load, fma, add, store, and gather<V>(x, col): x[col[0]] V times, then x[col[1]] V times, and so on.
template <class S, int V, class Index>
void gemv_gather(const GemvArgs& args, int64_t group_begin, int64_t group_end) {
  constexpr int kBlocks = S::kLanes / V;
  using Vec = typename S::Vec;
  const float* const x = args.x;
  for (int64_t group = group_begin; group < group_end; ++group) {
    Vec s0 = S::zero(), s1 = S::zero();
    float sums[V] = {};
    for (int32_t l = 0; l < args.weight.level_count; ++l) {
      const PackedLevel& level = args.weight.levels[l];
      const uint32_t begin = level.ptr[group];
      int64_t left = static_cast<int64_t>(level.ptr[group + 1]) - begin;
      const Index* col = static_cast<const Index*>(level.col) + begin;
      const float* val = level.val + static_cast<int64_t>(begin) * V;
      for (; left >= 2 * kBlocks; left -= 2 * kBlocks, col += 2 * kBlocks, val += 2 * S::kLanes) {
        s0 = S::fma(S::load(val), S::template gather<V>(x, col), s0);
        s1 = S::fma(S::load(val + S::kLanes), S::template gather<V>(x, col + kBlocks), s1);
      }
      for (; left > 0; --left, ++col, val += V) {
        for (int v = 0; v < V; ++v) sums[v] += val[v] * x[*col];
      }
    }
    float lanes[S::kLanes];
    S::store(lanes, S::add(s0, s1));
    for (int i = 0; i < S::kLanes; ++i) sums[i % V] += lanes[i];
    gemv_store<V>(args, group, sums);
  }
}

}  // namespace
}  // namespace nested_sparse
