// Sparse matrix times one vector:
//
//   y[output_of(r)] = clip( scale[r] * sum_l sum_j val_l[j][v] * x[col_l[j]]  +  shift[r]  +  residual[output_of(r)] )
//
// for packed row r = g * V + v and j in [ptr_l[g], ptr_l[g + 1]); with gather groups over the entries of row r
// (packed.h).
//
// Callers guarantee that columns and ranges of groups are in range. No alignment is assumed. Kernels write only the
// outputs of their groups, so calls over disjoint ranges may run at once. y may be the residual.
#pragma once

#include "../packed.h"

namespace nested_sparse {

struct GemvArgs {
  PackedWeight weight;
  const float* x;         // [K]
  const float* residual;  // [O] or null
  float* y;               // [O]
  Clip clip;
};

// Computes the outputs of row groups [group_begin, group_end); for gather groups, of bundles.
using GemvKernel = void (*)(const GemvArgs& args, int64_t group_begin, int64_t group_end);

// The last steps of every kernel for packed row r: scale, shift, residual, clip, and the store at its output.
static inline void gemv_store_row(const GemvArgs& args, int64_t r, float sum) {
  const int64_t output = output_of(args.weight, r);
  if (output < 0) return;
  float value = sum * args.weight.scale[r] + args.weight.shift[r];
  if (args.residual != nullptr) value += args.residual[output];
  args.y[output] = clip(value, args.clip);
}

// The same for group `group` of V rows.
template <int V>
static inline void gemv_store(const GemvArgs& args, int64_t group, const float* sums) {
  for (int v = 0; v < V; ++v) gemv_store_row(args, group * V + v, sums[v]);
}

// The same for a bundle. sums: B sums, one for each entry of a gather group; per_row neighbouring sums belong to one
// row.
template <int B>
static inline void gemv_store_gs(const GemvArgs& args, int64_t bundle, int per_row, const float* sums) {
  const int rows = B / per_row;
  for (int row = 0; row < rows; ++row) {
    float sum = 0.0F;
    for (int i = 0; i < per_row; ++i) sum += sums[row * per_row + i];
    gemv_store_row(args, bundle * rows + row, sum);
  }
}

}  // namespace nested_sparse
