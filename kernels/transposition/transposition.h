// Transposition of a matrix of floats, and what follows a linear layer on the way.
#pragma once

#include "../isa.h"
#include "../packed.h"

namespace nested_sparse {

// to[c * to_pitch + r] = from[r * from_pitch + c]
struct TransposeArgs {
  const float* from;
  int64_t from_pitch;  // floats from one row to the next
  int64_t rows;
  int64_t columns;
  float* to;
  int64_t to_pitch;
};

// Writes zeros behind the last row, up to whole vectors of `lanes`.
using PackKernel = void (*)(const TransposeArgs& args);

// Writes clip(from[r * from_pitch + c] + residual[c * to_pitch + r], bounds) and nothing else; residual: null for none.
// It may be `to`.
using FinishKernel = void (*)(const TransposeArgs& args, const float* residual, Clip bounds);

struct TransposeLoops {
  Isa isa;
  int32_t lanes;
  PackKernel pack;
  FinishKernel finish;
};
// Throws std::invalid_argument where none is built for `isa`.
const TransposeLoops& find_transpose(Isa isa);

}  // namespace nested_sparse
