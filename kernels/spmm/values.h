// The kernels of spmm.h for each type of values, made from the kernel for float32. The inner loop is written once, for
// floats: values of another type are widened before it, a few row groups at a time, into a buffer in L1.
#pragma once

#include "../half.h"
#include "spmm.h"

namespace nested_sparse {

// Writes `count` halves as floats.
using WidenKernel = void (*)(const uint16_t* halves, int64_t count, float* floats);

// Computes the outputs of groups [begin, end) of a weight whose values are float16.
// floats: the kernel for the same weight with float32 values. values: values of a block, or of a gather group.
// units: groups of `floats` in a row group of the weight: the parts of a block, or the rows of a bundle.
// Throws std::bad_alloc.
void spmm_halves(SpmmKernel floats, WidenKernel widen, int64_t values, int64_t units, const SpmmArgs& args,
                 int64_t begin, int64_t end);

// Everything below is in an unnamed namespace for the reason given in tile.h.
namespace {

// Computes the outputs of groups [begin, end) of a weight whose values are of type `Type`; the rest as in spmm_halves.
template <ValueType Type>
inline void spmm_values(SpmmKernel floats, WidenKernel widen, int64_t values, int64_t units, const SpmmArgs& args,
                        int64_t begin, int64_t end) {
  static_assert(Type == ValueType::float32 || Type == ValueType::float16, "each type of values has a line below");
  if constexpr (Type == ValueType::float32) floats(args, begin, end);
  if constexpr (Type == ValueType::float16) spmm_halves(floats, widen, values, units, args, begin, end);
}

// The same for blocks; `floats` is the kernel for V rows.
template <int V, ValueType Type>
inline void spmm_blocks(SpmmKernel floats, WidenKernel widen, const SpmmArgs& args, int64_t begin, int64_t end) {
  const int64_t values = block_part<V>(args.weight, 0).values;
  spmm_values<Type>(floats, widen, values, values / V, args, begin, end);
}

// A WidenKernel over the vector type S of tile.h, which has a `load` for halves as well as for floats.
template <class S>
void widen(const uint16_t* halves, int64_t count, float* floats) {
  int64_t i = 0;
  for (; i + S::kLanes <= count; i += S::kLanes) S::store(floats + i, S::load(halves + i));
  for (; i < count; ++i) floats[i] = widened(halves[i]);
}

}  // namespace

}  // namespace nested_sparse
