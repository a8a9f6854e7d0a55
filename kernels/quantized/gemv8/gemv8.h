// Sparse int8 matrix times one vector, as sums without scale. For packed row r = g * V + v:
//
//   bytes:   sums[r] = sum_l sum_j sum_i val_l[j][v][i] * (x[col_l[j][i]] - x_zero)     32-bit integers that wrap
//   floats:  sums[r] = sum_l sum_j sum_i val_l[j][v][i] * x[col_l[j][i]]                float32, in any order
//
// for quads j in [ptr_l[g], ptr_l[g + 1]) and i in 0 .. 3 (spmm8/spmm8.h describes quads). So the sums of bytes are the
// same on every instruction set.
//
// Callers guarantee that columns and ranges of groups are in range. No alignment is assumed. Kernels write only the
// sums of their groups, so calls over disjoint ranges may run at once.
#pragma once

#include <cstdint>

#include "../spmm8/spmm8.h"

namespace nested_sparse {

struct Gemv8Args {
  const QuadLevel* levels;
  int32_t level_count;
  const uint8_t* x;  // [columns]
  int32_t x_zero;
  const int32_t* row_sums;  // [packed rows] the sum of each row's weights over all levels
  int32_t* sums;            // [packed rows]
};

struct Gemv8FloatArgs {
  const QuadLevel* levels;
  int32_t level_count;
  const float* x;  // [columns]
  float* sums;     // [packed rows]
};

// Computes the sums of row groups [group_begin, group_end).
using Gemv8Kernel = void (*)(const Gemv8Args& args, int64_t group_begin, int64_t group_end);
using Gemv8FloatKernel = void (*)(const Gemv8FloatArgs& args, int64_t group_begin, int64_t group_end);

}  // namespace nested_sparse
