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

#include "../../isa.h"
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

// One line of the list. Exactly one of `bytes` and `floats` is set.
struct Gemv8Info {
  const char* name;
  Isa isa;
  bool dot;
  int32_t block_rows;
  Gemv8Kernel bytes;
  Gemv8FloatKernel floats;
};

// The list of kernels in its order, and its length.
const Gemv8Info* gemv8_list(int32_t* count);

// The kernels of an instruction set for weights of such blocks. Throws std::invalid_argument where none is listed.
const Gemv8Info& find_gemv8(const IsaChoice& choice, int32_t block_rows);
const Gemv8Info& find_float_gemv8(const IsaChoice& choice, int32_t block_rows);

}  // namespace nested_sparse
