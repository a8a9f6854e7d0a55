// Sparse matrix times one vector:
//
//   y[output_of(r)] = clip( scale[r] * sum_l sum_j val_l[j][v] * x[col_l[j]]  +  shift[r]  +  residual[output_of(r)] )
//
// for packed row r = g * V + v and j in [ptr_l[g], ptr_l[g + 1]).
//
// Callers guarantee that columns and group ranges are in range; no alignment is assumed. Kernels write only the outputs
// of their groups, so calls over disjoint ranges may run at once; y may be the residual.
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

// Computes the outputs of row groups [group_begin, group_end).
using GemvKernel = void (*)(const GemvArgs& args, int64_t group_begin, int64_t group_end);

// The end of every kernel: scale, shift, residual, clip, and the store by permutation, of group `group` of V rows.
// Static, like the functions of packed.h: each instruction set's file has its own, compiled with its flags.
template <int V>
static inline void gemv_store(const GemvArgs& args, int64_t group, const float* sums) {
  for (int v = 0; v < V; ++v) {
    const int64_t r = group * V + v;
    const int64_t output = output_of(args.weight, r);
    if (output < 0) continue;
    float value = sums[v] * args.weight.scale[r] + args.weight.shift[r];
    if (args.residual != nullptr) value += args.residual[output];
    args.y[output] = clip(value, args.clip);
  }
}

}  // namespace nested_sparse
