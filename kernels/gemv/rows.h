// The kernels of gemv.h, written once over a vector type W. The file of each instruction set includes it. Everything is
// in an unnamed namespace: the linker must never let callers of one instruction set use code compiled for another.
#pragma once

#include <algorithm>
#include <cstring>
#include <limits>

#include "../half.h"
#include "gemv.h"

namespace nested_sparse {
namespace {

// Distance in bytes from the value in use to the value that is fetched early. The hardware's prefetchers alone stop at
// every page.
constexpr int kPrefetch = 2048;
constexpr int kLine = 64;

// Fetches `Count` values early: those that lie kPrefetch bytes after the `Count` values at `val`.
template <int Count, class Value>
inline void prefetch(const Value* val) {
  constexpr int kStep = kLine / sizeof(Value);
  for (int ahead = 0; ahead < Count; ahead += kStep) __builtin_prefetch(val + kPrefetch / sizeof(Value) + ahead);
}

// For blocks of V = 4, 8 or 16 rows: a vector holds one block, and the input of its column is broadcast. The groups are
// `first`, `first + stride` and so on. Each has two sums, which hides the latency of the multiply-add. W provides Vec,
// kRows, zero, load (of floats and of halves), fma(vec, scalar pointer, vec), add, store.
//
// W::kStreams groups that lie far apart are read at once: with four streams, one x86 core reads a fifth more from
// memory than with one (4096 x 4096 at 25 %, V = 16: 1.40 ms and 1.66 ms). Eight streams are no better.
template <class W, int Streams, class Index, class Value>
void gemv_streams(const GemvArgs& args, int64_t first, int64_t stride) {
  constexpr int V = W::kRows;
  using Vec = typename W::Vec;
  const float* const x = args.x;
  Vec sums[Streams][2];
  for (auto& sum : sums) sum[0] = sum[1] = W::zero();
  for (int32_t l = 0; l < args.weight.level_count; ++l) {
    const PackedLevel& level = args.weight.levels[l];
    const Value* val[Streams];
    const Index* col[Streams];
    int64_t count[Streams];
    int64_t common = std::numeric_limits<int64_t>::max();
    for (int k = 0; k < Streams; ++k) {
      const uint32_t begin = level.ptr[first + k * stride];
      count[k] = static_cast<int64_t>(level.ptr[first + k * stride + 1]) - begin;
      val[k] = values_of<Value>(level) + static_cast<int64_t>(begin) * V;
      col[k] = static_cast<const Index*>(level.col) + begin;
      common = std::min(common, count[k]);
    }
    common -= common % 2;
    for (int64_t i = 0; i < common; i += 2) {
      for (int k = 0; k < Streams; ++k) {
        const Value* const v = val[k] + i * V;
        prefetch<2 * V>(v);
        sums[k][0] = W::fma(W::load(v), x + col[k][i], sums[k][0]);
        sums[k][1] = W::fma(W::load(v + V), x + col[k][i + 1], sums[k][1]);
      }
    }
    for (int k = 0; k < Streams; ++k) {
      for (int64_t i = common; i < count[k]; ++i) {
        sums[k][0] = W::fma(W::load(val[k] + i * V), x + col[k][i], sums[k][0]);
      }
    }
  }
  for (int k = 0; k < Streams; ++k) {
    float outputs[V];
    W::store(outputs, W::add(sums[k][0], sums[k][1]));
    gemv_store<V>(args, first + k * stride, outputs);
  }
}

template <class W, class Index, class Value>
void gemv_broadcast(const GemvArgs& args, int64_t group_begin, int64_t group_end) {
  constexpr int kStreams = W::kStreams;
  const int64_t stride = (group_end - group_begin) / kStreams;
  for (int64_t i = 0; i < stride; ++i) gemv_streams<W, kStreams, Index, Value>(args, group_begin + i, stride);
  for (int64_t group = group_begin + kStreams * stride; group < group_end; ++group) {
    gemv_streams<W, 1, Index, Value>(args, group, 0);
  }
}

// For blocks of V = 1 or 2 rows: a vector of W::kRows lanes holds the values of kBlocks blocks. Each block has a sum of
// its own. The whole vector times the block's input is added to that sum, but only the block's own V lanes of it are
// used. So no inputs have to be gathered: on processors that protect gathers against speculation, a gather of 16 floats
// takes about 35 cycles, and this takes about 13 (4096 x 4096 at 25 %, GS(16, 1): 2.75 ms with gathers, 1.9 ms
// without).
template <class W, int V>
struct Diagonal {
  static constexpr int kBlocks = W::kRows / V;
  typename W::Vec sums[kBlocks];

  Diagonal() {
    for (int i = 0; i < kBlocks; ++i) sums[i] = W::zero();
  }

  // Adds `steps` vectors of values. The first is at `val`, and each next one `stride` blocks after it.
  template <class Index, class Value>
  void add(const float* x, const Value* val, const Index* col, int64_t steps, int stride) {
    constexpr int kTogether = std::min<int>(8 / sizeof(Index), kBlocks);
    for (; steps > 0; --steps, val += stride * V, col += stride) {
      prefetch<W::kRows>(val);
      __builtin_prefetch(col + kPrefetch / sizeof(float));
      const typename W::Vec values = W::load(val);
      for (int i = 0; i < kBlocks; i += kTogether) {
        uint64_t columns = 0;  // one load for several columns: the load ports limit this loop
        std::memcpy(&columns, col + i, kTogether * sizeof(Index));
        for (int j = i; j < i + kTogether; ++j, columns >>= 8 * sizeof(Index)) {
          sums[j] = W::fma(values, x + static_cast<Index>(columns), sums[j]);
        }
      }
    }
  }

  // Adds each lane's sum to totals: that of lane i to totals[i].
  void store(float* totals) const {
    for (int i = 0; i < kBlocks; ++i) {
      float lanes[W::kRows];
      W::store(lanes, sums[i]);
      for (int v = 0; v < V; ++v) totals[i * V + v] += lanes[i * V + v];
    }
  }
};

// The kernel for blocks of V = 1 or 2 rows.
template <class W, int V, class Index, class Value>
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
      const Value* val = values_of<Value>(level) + static_cast<int64_t>(begin) * V;
      diagonal.add(args.x, val, col, count / kBlocks, kBlocks);
      for (int64_t j = count / kBlocks * kBlocks; j < count; ++j) {
        for (int v = 0; v < V; ++v) sums[v] += widened(val[j * V + v]) * args.x[col[j]];
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
