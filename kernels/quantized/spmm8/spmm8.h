// Sparse int8 matrix times the u8 pixels of one tile. For packed row r = g * V + v and position q in 0 .. pixels - 1:
//
//   sum = bias[r] + sum_l sum_j sum_i val_l[j][v][i] * x[g * x_group_step + offset(col_l[j][i]) + q]
//   h   = sat16(sum >> shift[r])
//   t   = (h * multiplier[r] + 2^14) >> 15
//   t   = sat16(t + ((residual[o * residual_pitch + q] * 256 * residual_multiplier) >> 16))    with a residual
//   y   = clamp(sat_u8((t + 4) >> 3), lo, hi), then table[y] where there is a table
//
// for quads j in [ptr_l[g], ptr_l[g + 1]), i in 0 .. 3, and o = the output of packed row r. All are integers of 32 bits
// that wrap, so every instruction set gives the same bits.
//
// A second kernel of the same weights stores the sums themselves, without bias, for linear layers.
//
// Callers guarantee that columns and ranges of groups are in range, that `pixels` bytes of each column and of the
// residual are readable, that shifts are 0 to 31, and that no multiplier is -32768. No alignment is assumed.
//
// Kernels write `pixels` bytes of the outputs of their groups, and nothing else. Calls over disjoint ranges may
// therefore run at once. Each output's residual is read before the output is written, so y may be the residual.
#pragma once

#include <cstdint>

namespace nested_sparse {

// Pixels of a tile at most.
constexpr int kTilePixels = 64;

// The quads that one level adds (FORMAT.md): row group g has quads ptr[g] to ptr[g + 1] - 1; quad j has the four
// columns col[4 * j ..] and for each of V rows four weights, val[4 * (V * j + v) ..].
struct QuadLevel {
  const uint32_t* ptr;
  const uint16_t* col;
  const int8_t* val;
};

struct Spmm8Args {
  const QuadLevel* levels;
  int32_t level_count;
  const uint8_t* x;        // the tile's first pixel of column 0
  const int32_t* offsets;  // bytes from there to each column; null: column * 64
  int64_t x_group_step;    // bytes that x advances from one row group to the next: a channel for depthwise layers, or 0
  const int32_t* bias;     // [packed rows], as shift and multiplier
  const int32_t* shift;
  const int16_t* multiplier;
  const int32_t* perm;  // output of each packed row, as in packed.h
  int64_t rows;
  const uint8_t* residual;  // or null
  int64_t residual_pitch;
  int32_t residual_multiplier;
  const uint8_t* table;  // 256 bytes, or null
  uint8_t lo, hi;
  uint8_t* y;
  int64_t y_pitch;  // bytes from one output to the next
  uint64_t keep;    // where `masked`: positions whose bit is 0 get `pad` in place of the result
  uint8_t pad;
  bool masked;
  int32_t pixels;  // 16, 32 or 64
  // Null, or memory of kSharedQuadBytes for each quad of a group, aligned to 64 bytes, where every group has the
  // columns of the first, in the first level alone. Kernels may bring their pixels into order there once for all
  // groups.
  uint8_t* shared_quads;
};
constexpr int64_t kSharedQuadBytes = 512;

struct Sums8Args {
  const QuadLevel* levels;
  int32_t level_count;
  const uint8_t* x;        // as in Spmm8Args
  const int32_t* offsets;  // as in Spmm8Args
  int32_t* sums;           // sums[r * sums_pitch + q] of packed row r; padding rows are written, too
  int64_t sums_pitch;
  int32_t pixels;  // 16, 32 or 64
};

// Computes the outputs, or the sums, of row groups [group_begin, group_end).
using Spmm8Kernel = void (*)(const Spmm8Args& args, int64_t group_begin, int64_t group_end);
using Sums8Kernel = void (*)(const Sums8Args& args, int64_t group_begin, int64_t group_end);

// Output of packed row r, or -1 where the row is padding.
static inline int64_t output_of(const Spmm8Args& args, int64_t r) {
  if (args.perm != nullptr) return args.perm[r];
  return r < args.rows ? r : -1;
}

}  // namespace nested_sparse
