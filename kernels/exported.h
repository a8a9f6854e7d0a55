// The structs of the C interface (exports.cc) that no operator uses.
#pragma once

#include <cstdint>

#include "packed.h"

#define NESTED_SPARSE_EXPORT extern "C" __attribute__((visibility("default")))

namespace nested_sparse {

// One line of the lists of kernels.
struct KernelRow {
  const char* name;
  const char* op;
  const char* isa;
  int32_t block_rows;
  int32_t banks;
  int32_t index_bytes;
  const char* value_type;
  int32_t vectors;
  int32_t lanes;
  int32_t supported;
};

// The arguments of one kernel call. `pixels` counts those of spmm kernels, the vectors of gemv kernels. The residual
// has the pitch of y.
struct KernelCall {
  PackedWeight weight;
  const float* x;
  const float* residual;
  float* y;
  Clip clip;
  int64_t group_begin;
  int64_t group_end;
  int64_t x_pitch;
  int64_t pixels;
  int64_t y_pitch;
  bool y_whole;
};

}  // namespace nested_sparse
