// The reference: plain loops over the formulas of gemv8.h, compiled for the architecture's baseline and without
// contraction.
#include "gemv8.h"

namespace nested_sparse {
namespace {

// A vector of x less `zero`, as numbers whose sums wrap or round.
template <class Sum, int V, class X>
void gemv8(const QuadLevel* levels, int32_t level_count, const X* x, Sum zero, int64_t group, Sum* sums) {
  for (int32_t l = 0; l < level_count; ++l) {
    const QuadLevel& level = levels[l];
    for (int64_t quad = level.ptr[group]; quad < level.ptr[group + 1]; ++quad) {
      for (int i = 0; i < 4; ++i) {
        const Sum in = static_cast<Sum>(x[level.col[4 * quad + i]]) - zero;
        for (int v = 0; v < V; ++v) sums[v] += static_cast<Sum>(level.val[4 * (V * quad + v) + i]) * in;
      }
    }
  }
}

template <int V>
void gemv8(const Gemv8Args& args, int64_t group_begin, int64_t group_end) {
  for (int64_t group = group_begin; group < group_end; ++group) {
    uint32_t sums[V] = {};
    gemv8<uint32_t, V>(args.levels, args.level_count, args.x, static_cast<uint32_t>(args.x_zero), group, sums);
    for (int v = 0; v < V; ++v) args.sums[group * V + v] = static_cast<int32_t>(sums[v]);
  }
}

template <int V>
void gemv8(const Gemv8FloatArgs& args, int64_t group_begin, int64_t group_end) {
  for (int64_t group = group_begin; group < group_end; ++group) {
    float sums[V] = {};
    gemv8<float, V>(args.levels, args.level_count, args.x, 0.0F, group, sums);
    for (int v = 0; v < V; ++v) args.sums[group * V + v] = sums[v];
  }
}

}  // namespace

#define NESTED_SPARSE_LIST_SCALAR
#define GEMV8_KERNEL(isa, dot, symbol, block_rows)                             \
  void symbol(const Gemv8Args& args, int64_t group_begin, int64_t group_end) { \
    gemv8<block_rows>(args, group_begin, group_end);                           \
  }
#define GEMV8_FLOAT_KERNEL(isa, symbol, block_rows)                                 \
  void symbol(const Gemv8FloatArgs& args, int64_t group_begin, int64_t group_end) { \
    gemv8<block_rows>(args, group_begin, group_end);                                \
  }
#include "../kernels.inc"

}  // namespace nested_sparse
