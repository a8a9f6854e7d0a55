// The kernels of spmm.h for values stored in halves: those for floats, given a few row groups at a time whose values
// have been widened into memory that stays in the nearest cache. So the inner loop exists once, for floats.
#pragma once

#include "../half.h"
#include "spmm.h"

namespace nested_sparse {

// Writes `count` halves as floats.
using WidenKernel = void (*)(const uint16_t* halves, int64_t count, float* floats);

// What `floats` computes of a weight in halves. `values`: of a block, or pack; `units`: what `floats` calls groups, for
// each row group of the weight: 1, with packs the rows of a bundle. Throws std::bad_alloc.
void spmm_halves(SpmmKernel floats, WidenKernel widen, int64_t values, int64_t units, const SpmmArgs& args,
                 int64_t begin, int64_t end);

// In an unnamed namespace for the reason given in tile.h.
namespace {

// A WidenKernel over the vector type S of tile.h, whose load takes halves, too.
template <class S>
void widen(const uint16_t* halves, int64_t count, float* floats) {
  int64_t i = 0;
  for (; i + S::kLanes <= count; i += S::kLanes) S::store(floats + i, S::load(halves + i));
  for (; i < count; ++i) floats[i] = widened(halves[i]);
}

}  // namespace

}  // namespace nested_sparse
