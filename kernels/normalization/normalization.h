// Normalization of rows: the LayerNorm of ONNX over the last axis.
#pragma once

#include <cstdint>

#include "../isa.h"

namespace nested_sparse {

struct NormalizeArgs {
  const float* x;  // [rows, columns]
  int64_t rows;
  int64_t columns;
  const float* scale;  // [columns], and so is shift
  const float* shift;
  float epsilon;
  float* y;  // [rows, columns]; not x
};

// y = (x - mean) / sqrt(variance + epsilon) scale + shift, with mean and variance of the row. The variance is that of
// the differences to the mean, in a second pass over the row: with that of the squares, large means leave no digits.
using NormalizeKernel = void (*)(const NormalizeArgs& args);

struct NormalizeLoop {
  Isa isa;
  NormalizeKernel run;
};
// Throws std::invalid_argument where none is built for `isa`.
const NormalizeLoop& find_normalize(Isa isa);

}  // namespace nested_sparse
