// The reference: plain loops over the formulas of spmm8.h. It also runs on CPUs for which there are no other kernels.
#include <algorithm>

#include "spmm8.h"

namespace nested_sparse {
namespace {

// Sums of one packed row; unsigned, because they may wrap. Args: Spmm8Args or Sums8Args.
template <int V, class Args>
void accumulate(const Args& args, const uint8_t* x, int64_t row, uint32_t* sums) {
  const int64_t group = row / V;
  for (int32_t l = 0; l < args.level_count; ++l) {
    const QuadLevel& level = args.levels[l];
    for (int64_t j = level.ptr[group]; j < level.ptr[group + 1]; ++j) {
      for (int i = 0; i < 4; ++i) {
        const int64_t column = level.col[4 * j + i];
        const int32_t weight = level.val[4 * (V * j + row % V) + i];
        const uint8_t* const from = x + (args.offsets == nullptr ? column * 64 : args.offsets[column]);
        for (int32_t q = 0; q < args.pixels; ++q) sums[q] += static_cast<uint32_t>(weight * from[q]);
      }
    }
  }
}

int32_t saturated(int32_t value) {
  return std::clamp(value, -32768, 32767);
}

void store(const Spmm8Args& args, int64_t row, int64_t output, const uint32_t* sums) {
  for (int32_t q = 0; q < args.pixels; ++q) {
    const int32_t h = saturated(static_cast<int32_t>(sums[q]) >> args.shift[row]);
    int32_t t = (h * args.multiplier[row] + 16384) >> 15;
    if (args.residual != nullptr) {
      const int32_t added = args.residual[output * args.residual_pitch + q] * 256;
      t = saturated(t + ((added * args.residual_multiplier) >> 16));
    }
    uint8_t byte = static_cast<uint8_t>(std::clamp((t + 4) >> 3, 0, 255));
    byte = std::min(std::max(byte, args.lo), args.hi);
    if (args.table != nullptr) byte = args.table[byte];
    const bool kept = !args.masked || (args.keep >> q & 1) != 0;
    args.y[output * args.y_pitch + q] = kept ? byte : args.pad;
  }
}

template <int V>
void spmm8(const Spmm8Args& args, int64_t group_begin, int64_t group_end) {
  for (int64_t row = group_begin * V; row < group_end * V; ++row) {
    const int64_t output = output_of(args, row);
    if (output < 0) continue;
    uint32_t sums[kTilePixels];
    std::fill_n(sums, args.pixels, static_cast<uint32_t>(args.bias[row]));
    accumulate<V>(args, args.x + row / V * args.x_group_step, row, sums);
    store(args, row, output, sums);
  }
}

template <int V>
void sums8(const Sums8Args& args, int64_t group_begin, int64_t group_end) {
  for (int64_t row = group_begin * V; row < group_end * V; ++row) {
    uint32_t sums[kTilePixels] = {};
    accumulate<V>(args, args.x, row, sums);
    for (int32_t q = 0; q < args.pixels; ++q) args.sums[row * args.sums_pitch + q] = static_cast<int32_t>(sums[q]);
  }
}

}  // namespace

#define NESTED_SPARSE_LIST_SCALAR
#define SPMM8_KERNEL(isa, dot, symbol, sums_symbol, block_rows)                     \
  void symbol(const Spmm8Args& args, int64_t group_begin, int64_t group_end) {      \
    spmm8<block_rows>(args, group_begin, group_end);                                \
  }                                                                                 \
  void sums_symbol(const Sums8Args& args, int64_t group_begin, int64_t group_end) { \
    sums8<block_rows>(args, group_begin, group_end);                                \
  }
#include "../kernels.inc"

}  // namespace nested_sparse
