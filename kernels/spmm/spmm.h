// Sparse matrix times many pixels:
//
//   y[output_of(r) * y_pitch + position(q)] =
//       clip( scale[r] * sum_l sum_j val_l[j][v] * x[offset[col_l[j]] + q]  +  shift[r]  +  residual[same place] )
//
// for packed row r = g * V + v, j in [ptr_l[g], ptr_l[g + 1]) (with packs over the entries of row r, packed.h), and
// every pixel q in 0 .. pixels - 1 that is an output.
//
// Pixels come in vectors of the kernel's `lanes`. Where `places` is null every pixel is an output and position(q) = q.
// Else places[i] says which lanes of vector i are outputs, and where its first output goes; the others follow it.
//
// Callers guarantee: columns and group ranges in range; x + offset[k] readable for `pixels` floats, and, where `places`
// is set, up to the end of the last whole vector. No alignment is assumed. Kernels write nothing but the outputs of
// their groups and vectors, so calls over disjoint ranges may run at once; each output's residual is read before the
// output is written, so y may be the residual.
#pragma once

#include "../packed.h"

namespace nested_sparse {

struct PixelPlace {
  int32_t position;
  uint32_t mask;
};

struct SpmmArgs {
  PackedWeight weight;
  const float* x;
  const int32_t* offset;  // [K] floats
  int64_t pixels;
  const PixelPlace* places;  // [ceil(pixels / lanes)] or null
  const float* residual;     // laid out as y, or null
  float* y;
  int64_t y_pitch;  // floats from one output row to the next
  Clip clip;
};

// Computes the outputs of row groups (with packs: packed rows) [group_begin, group_end) in pixel vectors [vector_begin,
// vector_end), which it cuts into tiles of the listed number of vectors or a little less.
using SpmmKernel = void (*)(const SpmmArgs& args, int64_t group_begin, int64_t group_end, int64_t vector_begin,
                            int64_t vector_end);

}  // namespace nested_sparse
