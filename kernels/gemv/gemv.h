// Sparse matrix times a few vectors:
//
//   y[n * y_pitch + output_of(r)] =
//       clip( scale[r] * sum_l sum_j val_l[j][v] * x[n * x_pitch + col_l[j]]  +  shift[r]
//             +  residual[n * y_pitch + output_of(r)] )
//
// for vector n, packed row r = g * V + v and j in [ptr_l[g], ptr_l[g + 1]); with gather groups over the entries of row
// r (packed.h). The order of an output's sum does not depend on the number of vectors.
//
// Callers guarantee that columns and ranges of groups are in range. No alignment is assumed. Kernels write only the
// outputs of their groups, so calls over disjoint ranges may run at once. y may be the residual.
#pragma once

#include <cstring>

#include "../packed.h"

namespace nested_sparse {

struct GemvArgs {
  PackedWeight weight;
  const float* x;         // [count][K]
  const float* residual;  // [count][O] or null
  float* y;               // [count][O]
  Clip clip;
  int64_t count = 1;  // vectors
  int64_t x_pitch = 0;
  int64_t y_pitch = 0;
};

// The arguments for vector `n` alone.
static inline GemvArgs vector_of(const GemvArgs& args, int64_t n) {
  const float* const residual = args.residual == nullptr ? nullptr : args.residual + n * args.y_pitch;
  return {args.weight, args.x + n * args.x_pitch, residual, args.y + n * args.y_pitch, args.clip};
}

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

// The same for group `group` of V rows, of the first `count` vectors of `args`. Rows in order are whole vectors, whose
// loops the compiler vectorises. It is a function of its own: inlined for each number of vectors, it is most of the
// code.
template <int V>
__attribute__((noinline)) static void gemv_store(const GemvArgs& args, int64_t group, const float (*sums)[V],
                                                 int64_t count = 1) {
  const int64_t first = group * V;
  if (args.weight.perm != nullptr || first + V > args.weight.rows) {
    for (int64_t n = 0; n < count; ++n) {
      const GemvArgs one = vector_of(args, n);
      for (int v = 0; v < V; ++v) gemv_store_row(one, first + v, sums[n][v]);
    }
    return;
  }
  const Clip bounds = args.clip;
  float scale[V], shift[V];
  std::memcpy(scale, args.weight.scale + first, sizeof scale);
  std::memcpy(shift, args.weight.shift + first, sizeof shift);
  const float* const residual = args.residual == nullptr ? nullptr : args.residual + first;
  float* const y = args.y + first;
  for (int64_t n = 0; n < count; ++n) {
    float values[V];
    for (int v = 0; v < V; ++v) values[v] = sums[n][v] * scale[v] + shift[v];
    if (residual != nullptr) {
      for (int v = 0; v < V; ++v) values[v] += residual[n * args.y_pitch + v];
    }
    for (int v = 0; v < V; ++v) values[v] = clip(values[v], bounds);
    std::memcpy(y + n * args.y_pitch, values, sizeof values);
  }
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
