// Sparse matrix times the pixels of one tile:
//
//   y[output_of(r) * y_pitch + q] =
//       clip( scale[r] * sum_l sum_j val_l[j][v] * x[col_l[j] * x_pitch + q]  +  shift[r]
//             +  residual[output_of(r) * residual_pitch + q] )
//
// for packed row r = g * V + v, j in [ptr_l[g], ptr_l[g + 1]) (with packs over the entries of row r, packed.h), and
// pixels q in 0 .. pixels - 1.
//
// Pixels come in vectors of the kernel's `lanes`. Callers guarantee: columns and group ranges in range; each row of x
// readable, and each row of y writable where `y_whole`, up to the end of the last whole vector. No alignment is
// assumed. Kernels write nothing but the rows of their groups: `pixels` floats of each, or whole vectors of them where
// `y_whole` (the rest of the last vector gets finite values for finite ones in x). So calls over disjoint ranges may
// run at once; each output's residual is read before the output is written, so y may be the residual.
//
// A product over many columns may be taken in several calls, a range of columns each, so that the pixels of a range
// stay in a near cache: `sums`, [G * V] rows of whole vectors, x_pitch apart, carries the sums from one call to the
// next. The first call starts from zero, all but the last leave their sums in it, and the last writes y. Then
// levels[l].ptr + g * ptr_stride holds the range's first block of group g and its end.
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
  float* sums = nullptr;  // null: one call
  bool first = true;
  bool last = true;
};

// Computes the outputs of row groups (with packs: packed rows) [group_begin, group_end).
using SpmmKernel = void (*)(const SpmmArgs& args, int64_t group_begin, int64_t group_end);

}  // namespace nested_sparse
