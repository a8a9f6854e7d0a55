// The reference: plain loops over the formula of spmm.h, with one pixel in a vector. It is compiled for the
// architecture's baseline and without contraction, so that every build gives the same bits. It also runs on CPUs for
// which there are no other kernels.
#include <algorithm>

#include "values.h"

namespace nested_sparse {
namespace {

constexpr int kPixels = 64;

template <int V, class Index>
void accumulate(const SpmmArgs& args, int64_t group, int v, int64_t first, int count, float* sums) {
  const BlockPart part = block_part<V>(args.weight, group);
  for (int32_t l = 0; l < args.weight.level_count; ++l) {
    const PackedLevel& level = args.weight.levels[l];
    const auto* col = static_cast<const Index*>(level.col);
    const uint32_t* const range = level.ptr + part.group * args.ptr_stride;
    for (uint32_t j = range[0]; j < range[1]; ++j) {
      const float weight = values_of<float>(level)[j * part.values + part.first + v];
      const float* x = args.x + static_cast<int64_t>(col[j]) * args.x_pitch + first;
      for (int i = 0; i < count; ++i) sums[i] += weight * x[i];
    }
  }
}

template <int B, class Index>
void accumulate_gs(const SpmmArgs& args, int64_t r, int64_t first, int count, float* sums) {
  const int64_t per_row = args.weight.per_row;
  const int64_t bundle = r * per_row / B;
  for (int32_t l = 0; l < args.weight.level_count; ++l) {
    const PackedLevel& level = args.weight.levels[l];
    const auto* col = static_cast<const Index*>(level.col);
    for (int64_t j = level.ptr[bundle]; j < level.ptr[bundle + 1]; ++j) {
      for (int64_t at = j * B + r * per_row % B, end = at + per_row; at < end; ++at) {
        const float* x = args.x + static_cast<int64_t>(col[at]) * args.x_pitch + first;
        for (int i = 0; i < count; ++i) sums[i] += values_of<float>(level)[at] * x[i];
      }
    }
  }
}

void widen(const uint16_t* halves, int64_t count, float* floats) {
  for (int64_t i = 0; i < count; ++i) floats[i] = widened(halves[i]);
}

void store(const SpmmArgs& args, int64_t r, int64_t output, int64_t first, int count, const float* sums) {
  float* y = args.y + output * args.y_pitch + first;
  const float* residual = args.residual == nullptr ? nullptr : args.residual + output * args.residual_pitch + first;
  for (int i = 0; i < count; ++i) {
    float value = sums[i] * args.weight.scale[r] + args.weight.shift[r];
    if (residual != nullptr) value += residual[i];
    y[i] = clip(value, args.clip);
  }
}

// Computes packed rows [row_begin, row_end). accumulate(r, first, count, sums) adds to the sums of row r.
template <class Accumulate>
void spmm_rows(const SpmmArgs& args, int64_t row_begin, int64_t row_end, const Accumulate& accumulate) {
  for (int64_t r = row_begin; r < row_end; ++r) {
    const int64_t output = output_of(args.weight, r);
    for (int64_t first = 0; first < args.pixels; first += kPixels) {
      const int count = static_cast<int>(args.pixels - first < kPixels ? args.pixels - first : kPixels);
      float* const carried = args.sums + r * args.x_pitch + first;
      float sums[kPixels] = {};
      if (!args.first) std::copy_n(carried, count, sums);
      accumulate(r, first, count, sums);
      if (!args.last) {
        std::copy_n(sums, count, carried);
      } else if (output >= 0) {
        store(args, r, output, first, count, sums);
      }
    }
  }
}

template <int V, int P, class Index>
void spmm(const SpmmArgs& args, int64_t group_begin, int64_t group_end) {
  static_assert(P == kPixels, "the list gives the pixels of a tile");
  spmm_rows(args, group_begin * V, group_end * V, [&args](int64_t r, int64_t first, int count, float* sums) {
    accumulate<V, Index>(args, r / V, static_cast<int>(r % V), first, count, sums);
  });
}

template <int B, class Index>
void spmm_gs(const SpmmArgs& args, int64_t row_begin, int64_t row_end) {
  spmm_rows(args, row_begin, row_end, [&args](int64_t r, int64_t first, int count, float* sums) {
    accumulate_gs<B, Index>(args, r, first, count, sums);
  });
}

}  // namespace

#define NESTED_SPARSE_LIST_SCALAR
#define SPMM_KERNEL(isa, symbol, block_rows, vectors, lanes, index, value)                  \
  void symbol(const SpmmArgs& args, int64_t group_begin, int64_t group_end) {               \
    constexpr SpmmKernel floats = spmm<block_rows, vectors, index>;                         \
    spmm_blocks<block_rows, ValueType::value>(floats, widen, args, group_begin, group_end); \
  }
#define GS_SPMM_KERNEL(isa, symbol, banks, vectors, lanes, index, value)                                        \
  void symbol(const SpmmArgs& args, int64_t row_begin, int64_t row_end) {                                       \
    constexpr SpmmKernel floats = spmm_gs<banks, index>;                                                        \
    spmm_values<ValueType::value>(floats, widen, banks, banks / args.weight.per_row, args, row_begin, row_end); \
  }
#include "../kernels.inc"

}  // namespace nested_sparse
