// The kernels of gemv.h, written once over vector types; each instruction set's file includes it. Everything is in an
// unnamed namespace: code compiled for one instruction set must never be linked into another's callers.
#pragma once

#include <algorithm>
#include <limits>

#include "gemv.h"

namespace nested_sparse {
namespace {

// Floats from the value in use to the one fetched early: the hardware's prefetchers stop at every page.
constexpr int kPrefetch = 512;

// Groups whose weights are read at once, from places far apart: one core gets a fifth more from memory by four streams
// than by one (4096 x 4096 at 25 %, V = 16: 1.40 ms and 1.66 ms); eight are no better.
constexpr int kStreams = 4;

// Blocks of V = 4, 8 or 16 rows: one vector holds a block, its column's input is broadcast. The groups are `first`,
// `first + stride` and so on; two sums for each hide the latency of the multiply-add. W gives Vec, kRows, zero, load,
// fma(vec, scalar pointer, vec), add, store.
template <class W, int Streams, class Index>
void gemv_streams(const GemvArgs& args, int64_t first, int64_t stride) {
  constexpr int V = W::kRows;
  using Vec = typename W::Vec;
  const float* const x = args.x;
  Vec sums[Streams][2];
  for (auto& sum : sums) sum[0] = sum[1] = W::zero();
  for (int32_t l = 0; l < args.weight.level_count; ++l) {
    const PackedLevel& level = args.weight.levels[l];
    const float* val[Streams];
    const Index* col[Streams];
    int64_t count[Streams];
    int64_t common = std::numeric_limits<int64_t>::max();
    for (int k = 0; k < Streams; ++k) {
      const uint32_t begin = level.ptr[first + k * stride];
      count[k] = static_cast<int64_t>(level.ptr[first + k * stride + 1]) - begin;
      val[k] = level.val + static_cast<int64_t>(begin) * V;
      col[k] = static_cast<const Index*>(level.col) + begin;
      common = std::min(common, count[k]);
    }
    common -= common % 2;
    for (int64_t i = 0; i < common; i += 2) {
      for (int k = 0; k < Streams; ++k) {
        const float* const v = val[k] + i * V;
        for (int ahead = 0; ahead < 2 * V; ahead += 16) __builtin_prefetch(v + kPrefetch + ahead);
        sums[k][0] = W::fma(W::load(v), x + col[k][i], sums[k][0]);
        sums[k][1] = W::fma(W::load(v + V), x + col[k][i + 1], sums[k][1]);
      }
    }
    for (int k = 0; k < Streams; ++k) {
      for (int64_t i = common; i < count[k]; ++i) {
        sums[k][i % 2] = W::fma(W::load(val[k] + i * V), x + col[k][i], sums[k][i % 2]);
      }
    }
  }
  for (int k = 0; k < Streams; ++k) {
    float outputs[V];
    W::store(outputs, W::add(sums[k][0], sums[k][1]));
    gemv_store<V>(args, first + k * stride, outputs);
  }
}

template <class W, class Index>
void gemv_broadcast(const GemvArgs& args, int64_t group_begin, int64_t group_end) {
  const int64_t stride = (group_end - group_begin) / kStreams;
  for (int64_t i = 0; i < stride; ++i) gemv_streams<W, kStreams, Index>(args, group_begin + i, stride);
  for (int64_t group = group_begin + kStreams * stride; group < group_end; ++group) {
    gemv_streams<W, 1, Index>(args, group, 0);
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
