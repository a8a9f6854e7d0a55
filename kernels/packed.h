// The packed weight as kernels read it, and the last steps that all kernels share (FORMAT.md, "Packed layer").
#pragma once

#include <cstdint>

#include "value_type.h"

namespace nested_sparse {

// How a weight is laid out and stored. Kernels are chosen by it.
struct WeightKind {
  int32_t block_rows;   // V, or kPartRows of higher blocks; 1 for gather groups
  int32_t banks;        // B of gather groups, whatever their k; 0 for blocks
  int32_t index_bytes;  // of a column index, 2 or 4
  ValueType value_type;

  bool operator==(const WeightKind& other) const {
    return block_rows == other.block_rows && banks == other.banks && index_bytes == other.index_bytes &&
           value_type == other.value_type;
  }
};

// The blocks or gather groups that one level adds. Blocks of row group g are ptr[g] to ptr[g + 1] - 1; block j lies in
// column col[j] and holds val[j * V] to val[j * V + V - 1]. The kernel knows the types behind col and val: it was
// chosen by the weight's kind.
//
// A gather group of GS(B, k), arXiv:2112.10898, holds B weights, k of each row of its bundle: entry i of gather group j
// is val[j * B + i] in column col[j * B + i], of packed row g * B / k + i / k. Gather groups of bundle g are ptr[g] to
// ptr[g + 1] - 1.
struct PackedLevel {
  const uint32_t* ptr;
  const void* col;  // uint16_t or uint32_t
  const void* val;  // Stored<> of the weight's value type
};

// The values of a level for a kernel that reads them as `Value`.
template <class Value>
static inline const Value* values_of(const PackedLevel& level) {
  return static_cast<const Value*>(level.val);
}

constexpr int kMaxLevels = 255;

// Rows of a block that kernels compute at a time, at most. A row group of more rows, V = kPartRows << part_bits, is
// that many of their groups (its *parts*), one after the other, which share its columns: part p of the weight lies in
// row group p >> part_bits.
constexpr int kPartRows = 16;

// Levels 0 to level_count - 1 of a weight with `rows` outputs, and the norm of level level_count - 1.
struct PackedWeight {
  const PackedLevel* levels;
  int32_t level_count;
  const float* scale;   // [G * V], packed row order
  const float* shift;   // [G * V]
  const int32_t* perm;  // [G * V] output of each packed row, -1 for padding; null: packed row r is output r
  int64_t rows;
  int32_t per_row;    // k of gather groups, 0 for blocks
  int64_t columns;    // bounds the memory that a group's values can take (spmm/values.h)
  int32_t part_bits;  // 0 for blocks of at most kPartRows rows, and for gather groups
};

// Where a kernel for blocks of V rows finds one of its groups.
struct BlockPart {
  int64_t group;   // row group
  int64_t values;  // of a whole block: from the values of one block to those of the next
  int64_t first;   // of them, the first of the part
};

// Only kPartRows rows can be a part of higher blocks, so for other V all but the group is known to the compiler.
template <int V>
static inline BlockPart block_part(const PackedWeight& weight, int64_t part) {
  const int bits = V == kPartRows ? weight.part_bits : 0;
  const int64_t group = part >> bits;
  return {group, int64_t{V} << bits, (part - (group << bits)) * V};
}

// Output of packed row r, or -1 where the row is padding.
static inline int64_t output_of(const PackedWeight& weight, int64_t r) {
  if (weight.perm != nullptr) return weight.perm[r];
  return r < weight.rows ? r : -1;
}

// Bounds of an output. A NaN stays NaN.
struct Clip {
  float lo;
  float hi;
};

static inline float clip(float value, Clip bounds) {
  value = value < bounds.lo ? bounds.lo : value;
  return value > bounds.hi ? bounds.hi : value;
}

}  // namespace nested_sparse
