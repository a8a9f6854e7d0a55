// The kernels of gemv.h, written once over a vector type W. The file of each instruction set includes it. Everything is
// in an unnamed namespace: the linker must never let callers of one instruction set use code compiled for another.
#pragma once

#include <algorithm>
#include <cstring>
#include <limits>

#include "../half.h"
#include "gemv.h"

#if defined(__clang__)
#define GEMV_UNROLL _Pragma("unroll")
#else
#define GEMV_UNROLL _Pragma("GCC unroll 16")
#endif

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

// For blocks of V = 4, 8 or 16 rows: a vector holds one block, and the input of its column is broadcast, for N vectors
// of inputs. The groups are `first`, `first + stride` and so on. Each has two sums, which hides the latency of the
// multiply-add. W provides Vec, kRows, zero, load (of floats and of halves), fma(vec, scalar pointer, vec), add, store.
//
// W::kStreams groups that lie far apart are read at once: with four streams, one x86 core reads a fifth more from
// memory than with one (4096 x 4096 at 25 %, V = 16: 1.40 ms and 1.66 ms). Eight streams are no better.
template <class W, int N, int Streams, class Index, class Value>
void gemv_streams(const GemvArgs& args, int64_t first, int64_t stride) {
  constexpr int V = W::kRows;
  using Vec = typename W::Vec;
  const float* const x = args.x;
  const int64_t pitch = args.x_pitch;
  const int64_t block = block_part<V>(args.weight, 0).values;
  Vec sums[Streams][2][N];
  const auto add = [&](int k, int half, const Value* val, Index column) {
    const Vec values = W::load(val);
    GEMV_UNROLL
    for (int n = 0; n < N; ++n) sums[k][half][n] = W::fma(values, x + column + n * pitch, sums[k][half][n]);
  };
  GEMV_UNROLL
  for (int k = 0; k < Streams; ++k) {
    GEMV_UNROLL
    for (int n = 0; n < N; ++n) sums[k][0][n] = sums[k][1][n] = W::zero();
  }
  for (int32_t l = 0; l < args.weight.level_count; ++l) {
    const PackedLevel& level = args.weight.levels[l];
    const Value* val[Streams];
    const Index* col[Streams];
    int64_t count[Streams];
    int64_t common = std::numeric_limits<int64_t>::max();
    for (int k = 0; k < Streams; ++k) {
      const BlockPart part = block_part<V>(args.weight, first + k * stride);
      const uint32_t begin = level.ptr[part.group];
      count[k] = static_cast<int64_t>(level.ptr[part.group + 1]) - begin;
      val[k] = values_of<Value>(level) + begin * block + part.first;
      col[k] = static_cast<const Index*>(level.col) + begin;
      common = std::min(common, count[k]);
    }
    common -= common % 2;
    for (int64_t i = 0; i < common; i += 2) {
      GEMV_UNROLL
      for (int k = 0; k < Streams; ++k) {
        const Value* const v = val[k] + i * block;
        prefetch<2 * V>(v);
        add(k, 0, v, col[k][i]);
        add(k, 1, v + block, col[k][i + 1]);
      }
    }
    GEMV_UNROLL
    for (int k = 0; k < Streams; ++k) {
      for (int64_t i = common; i < count[k]; i += 2) {
        add(k, 0, val[k] + i * block, col[k][i]);
        if (i + 1 < count[k]) add(k, 1, val[k] + (i + 1) * block, col[k][i + 1]);
      }
    }
  }
  GEMV_UNROLL
  for (int k = 0; k < Streams; ++k) {
    float outputs[N][V];
    GEMV_UNROLL
    for (int n = 0; n < N; ++n) W::store(outputs[n], W::add(sums[k][0][n], sums[k][1][n]));
    gemv_store<V>(args, first + k * stride, outputs, N);
  }
}

// Computes groups [group_begin, group_end) for all vectors of `args`, which are at most N.
template <class W, int N, class Index, class Value>
void gemv_together(const GemvArgs& args, int64_t group_begin, int64_t group_end) {
  if constexpr (N > 1) {
    if (args.count < N) return gemv_together<W, N - 1, Index, Value>(args, group_begin, group_end);
  }
  constexpr int kStreams = std::max(W::kStreams / N, 1);  // as many sums as for one vector
  const int64_t stride = (group_end - group_begin) / kStreams;
  for (int64_t i = 0; i < stride; ++i) gemv_streams<W, N, kStreams, Index, Value>(args, group_begin + i, stride);
  for (int64_t group = group_begin + kStreams * stride; group < group_end; ++group) {
    gemv_streams<W, N, 1, Index, Value>(args, group, 0);
  }
}

// Takes at most W::kTogether vectors at a time, so that their sums stay in registers. A group's values then are in L1
// for the next ones.
template <class W, class Index, class Value>
void gemv_broadcast(const GemvArgs& args, int64_t group_begin, int64_t group_end) {
  const int64_t parts = (args.count + W::kTogether - 1) / W::kTogether;
  if (parts == 1) return gemv_together<W, W::kTogether, Index, Value>(args, group_begin, group_end);
  for (int64_t group = group_begin; group < group_end; ++group) {
    for (int64_t part = 0; part < parts; ++part) {
      const int64_t first = args.count * part / parts;
      GemvArgs some = vector_of(args, first);
      some.count = args.count * (part + 1) / parts - first;
      some.x_pitch = args.x_pitch;
      some.y_pitch = args.y_pitch;
      gemv_together<W, W::kTogether, Index, Value>(some, group, group + 1);
    }
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

template <class W, int V, class Index, class Value>
void diagonal_group(const GemvArgs& args, int64_t group) {
  constexpr int kBlocks = Diagonal<W, V>::kBlocks;
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
  for (int v = 0; v < V; ++v) gemv_store_row(args, group * V + v, sums[v]);
}

// The kernel for blocks of V = 1 or 2 rows.
template <class W, int V, class Index, class Value>
void gemv_diagonal(const GemvArgs& args, int64_t group_begin, int64_t group_end) {
  for (int64_t group = group_begin; group < group_end; ++group) {
    for (int64_t n = 0; n < args.count; ++n) diagonal_group<W, V, Index, Value>(vector_of(args, n), group);
  }
}

}  // namespace
}  // namespace nested_sparse
