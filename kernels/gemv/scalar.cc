// The reference: plain loops over the formula of gemv.h, compiled for the architecture's baseline and without
// contraction.
#include "../half.h"
#include "gemv.h"

namespace nested_sparse {
namespace {

template <int V, class Index, class Value>
void gemv_group(const GemvArgs& args, int64_t group) {
  float sums[V] = {};
  const BlockPart part = block_part<V>(args.weight, group);
  for (int32_t l = 0; l < args.weight.level_count; ++l) {
    const PackedLevel& level = args.weight.levels[l];
    const auto* col = static_cast<const Index*>(level.col);
    for (uint32_t j = level.ptr[part.group]; j < level.ptr[part.group + 1]; ++j) {
      const Value* val = values_of<Value>(level) + j * part.values + part.first;
      for (int v = 0; v < V; ++v) sums[v] += widened(val[v]) * args.x[col[j]];
    }
  }
  gemv_store<V>(args, group, &sums);
}

template <int B, class Index, class Value>
void gemv_bundle(const GemvArgs& args, int64_t bundle) {
  float sums[B] = {};
  for (int32_t l = 0; l < args.weight.level_count; ++l) {
    const PackedLevel& level = args.weight.levels[l];
    const auto* col = static_cast<const Index*>(level.col);
    const Value* val = values_of<Value>(level);
    for (int64_t j = level.ptr[bundle]; j < level.ptr[bundle + 1]; ++j) {
      for (int i = 0; i < B; ++i) sums[i] += widened(val[j * B + i]) * args.x[col[j * B + i]];
    }
  }
  gemv_store_gs<B>(args, bundle, args.weight.per_row, sums);
}

template <int V, class Index, class Value>
void gemv(const GemvArgs& args, int64_t group_begin, int64_t group_end) {
  for (int64_t group = group_begin; group < group_end; ++group) {
    for (int64_t n = 0; n < args.count; ++n) gemv_group<V, Index, Value>(vector_of(args, n), group);
  }
}

template <int B, class Index, class Value>
void gemv_gs(const GemvArgs& args, int64_t bundle_begin, int64_t bundle_end) {
  for (int64_t bundle = bundle_begin; bundle < bundle_end; ++bundle) {
    for (int64_t n = 0; n < args.count; ++n) gemv_bundle<B, Index, Value>(vector_of(args, n), bundle);
  }
}

}  // namespace

#define NESTED_SPARSE_LIST_SCALAR
#define GEMV_KERNEL(isa, symbol, block_rows, index, value)                           \
  void symbol(const GemvArgs& args, int64_t group_begin, int64_t group_end) {        \
    gemv<block_rows, index, Stored<ValueType::value>>(args, group_begin, group_end); \
  }
#define GS_GEMV_KERNEL(isa, symbol, banks, index, value)                             \
  void symbol(const GemvArgs& args, int64_t bundle_begin, int64_t bundle_end) {      \
    gemv_gs<banks, index, Stored<ValueType::value>>(args, bundle_begin, bundle_end); \
  }
#include "../kernels.inc"

}  // namespace nested_sparse
