// Sparse matrix times the pixels of one tile:
//
//   y[output_of(r) * y_pitch + q] =
//       clip( scale[r] * sum_l sum_j val_l[j][v] * x[col_l[j] * x_pitch + q]  +  shift[r]
//             +  residual[output_of(r) * residual_pitch + q] )
//
// for packed row r = g * V + v, j in [ptr_l[g], ptr_l[g + 1]) (with gather groups over the entries of row r, packed.h),
// and pixels q in 0 .. pixels - 1.
//
// Pixels are computed in vectors of the kernel's `lanes`.
//
// Callers guarantee that columns and ranges of groups are in range, and that each row of x is readable up to the end of
// its last whole vector. Where `y_whole` is set, each row of y must be writable up to there. No alignment is assumed.
//
// Kernels write only the rows of their groups: `pixels` floats of each row, or whole vectors where `y_whole` is set. In
// the padding of the last vector, finite values of x give finite values of y. Calls over disjoint ranges may therefore
// run at once. Each output's residual is read before the output is written, so y may be the residual.
//
// A product over many columns may be computed by several calls in turn, each for a range of columns, so that the pixels
// of a range stay in L2. `sums` carries the sums from one call to the next: [G * V] rows of whole vectors,
// which lie x_pitch floats apart. The first call starts from zero. All calls but the last leave their sums in `sums`,
// and the last call writes y. In each call, levels[l].ptr + g * ptr_stride points at two numbers: the range's first
// block of group g, and the end of its blocks.
#pragma once

#include "../packed.h"

namespace nested_sparse {

struct SpmmArgs {
  PackedWeight weight;
  const float* x;
  int64_t x_pitch;  // floats from one column's pixels to the next
  int64_t pixels;
  const float* residual;  // or null
  int64_t residual_pitch;
  float* y;
  int64_t y_pitch;
  bool y_whole;
  Clip clip;
  int64_t ptr_stride = 1;
  float* sums = nullptr;  // null where there is only one call
  bool first = true;
  bool last = true;
};

// Computes the outputs of row groups [group_begin, group_end); for gather groups, of packed rows.
using SpmmKernel = void (*)(const SpmmArgs& args, int64_t group_begin, int64_t group_end);

}  // namespace nested_sparse
