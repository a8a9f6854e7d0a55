#include <algorithm>

#include "spmm8.h"

namespace nested_sparse {
namespace {

int32_t saturated(int32_t value) {
  return std::clamp(value, -32768, 32767);
}

template <int V>
void spmm8(const Spmm8Args& args, int64_t group_begin, int64_t group_end) {
  for (int64_t group = group_begin; group < group_end; ++group) {
    const uint8_t* const x = args.x + group * args.x_group_step;
    uint32_t sums[V][64];
    for (int v = 0; v < V; ++v) std::fill_n(sums[v], 64, static_cast<uint32_t>(args.bias[group * V + v]));
    for (int32_t l = 0; l < args.level_count; ++l) {
      const QuadLevel& level = args.levels[l];
      for (uint32_t j = level.ptr[group]; j < level.ptr[group + 1]; ++j) {
        for (int i = 0; i < 4; ++i) {
          const int64_t column = level.col[int64_t{4} * j + i];
          const uint8_t* const from = x + (args.offsets == nullptr ? column * 64 : args.offsets[column]);
          for (int v = 0; v < V; ++v) {
            const int32_t weight = level.val[4 * (int64_t{V} * j + v) + i];
            for (int32_t q = 0; q < args.pixels; ++q) sums[v][q] += static_cast<uint32_t>(weight * from[q]);
          }
        }
      }
    }
    for (int v = 0; v < V; ++v) {
      const int64_t row = group * V + v;
      const int64_t output = args.perm != nullptr ? args.perm[row] : row < args.rows ? row : -1;
      if (output < 0) continue;
      uint8_t* const y = args.y + output * args.y_pitch;
      for (int32_t q = 0; q < args.pixels; ++q) {
        const int32_t h = saturated(static_cast<int32_t>(sums[v][q]) >> args.shift[row]);
        int32_t t = (h * args.multiplier[row] + 16384) >> 15;
        if (args.residual != nullptr) {
          const int32_t added = args.residual[output * args.residual_pitch + q];
          t = saturated(t + ((added * 256 * args.residual_multiplier) >> 16));
        }
        const auto byte = static_cast<uint8_t>(std::clamp((t + 32) >> 6, int32_t{args.lo}, int32_t{args.hi}));
        const bool keep = !args.masked || (args.keep >> q & 1) != 0;
        y[q] = !keep ? args.pad : args.table != nullptr ? args.table[byte] : byte;
      }
    }
  }
}

}  // namespace

Spmm8Kernel spmm8_scalar(int32_t block_rows) {
  switch (block_rows) {
    case 1:
      return spmm8<1>;
    case 2:
      return spmm8<2>;
    case 4:
      return spmm8<4>;
    case 8:
      return spmm8<8>;
    default:
      return spmm8<16>;
  }
}

}  // namespace nested_sparse
