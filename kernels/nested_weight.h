// NestedWeight: the weight of one node, with all its levels. Its arrays lie in the level segments, which reach the node
// as inputs.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>
#include <vector>

#include "ort_context.h"
#include "packed.h"
#include "quantized/spmm8/spmm8.h"

namespace nested_sparse {

struct Segment {
  const uint8_t* data = nullptr;
  int64_t nbytes = 0;
};

// The levels that one run uses. It must not be copied or moved: it points into the segments and into itself.
struct WeightView {
  PackedLevel levels[kMaxLevels];
  PackedWeight weight;
  const uint8_t* sparsest;  // the segment of level 0
  const uint8_t* densest;   // the segment of the last level in use
  int64_t blocks = 0;       // of all levels in use; for gather groups the number of their weights, for quads four each
  const float* row_scale = nullptr;  // [G * V] of int8 weights: what 1 stands for in each packed row
  int64_t packed_rows = 0;
  int32_t block_rows = 0;

  int32_t level() const { return weight.level_count - 1; }
  // The levels as the kernels of int8 weights take them. out: kMaxLevels of them.
  void quads(QuadLevel* out) const;
  // Of int8 weights: the sum of each packed row.
  std::vector<int32_t> row_sums() const;
};

// Knows from the node's attributes where its arrays lie in each segment, and makes the checks without which it is not
// safe to read them. Sizes are checked at every run. Contents (ptr ascends, columns are in range, the permutation is
// one, scales are normal numbers) are checked once for each level and address of its segment.
class NestedWeight {
 public:
  // Throws ort::Error where an attribute is out of range.
  explicit NestedWeight(const ort::Attributes& attributes);
  NestedWeight(const NestedWeight&) = delete;
  NestedWeight& operator=(const NestedWeight&) = delete;

  const std::string& layer() const { return layer_; }
  int64_t rows() const { return rows_; }
  int64_t columns() const { return columns_; }
  // Row groups: groups of V rows, or bundles.
  int64_t groups() const { return groups_; }
  int64_t packed_rows() const { return groups_ * group_rows_; }
  const WeightKind& kind() const { return kind_; }
  // V.
  int32_t block_rows() const { return block_rows_; }
  // B of gather groups, 0 for blocks.
  int32_t banks() const { return kind_.banks; }
  // Rows of a group as the kernels for blocks count them: V, or kPartRows of higher blocks.
  int32_t kernel_rows() const { return kind_.block_rows; }
  // Groups as spmm kernels count them: of kernel_rows() rows for blocks, a single row for gather groups.
  int64_t spmm_groups() const { return packed_rows() / kernel_rows(); }
  // Groups as gemv kernels count them: the same for blocks, bundles for gather groups.
  int64_t gemv_groups() const { return banks() == 0 ? spmm_groups() : groups_; }
  // The row group in which such a group lies; only for blocks.
  int64_t row_group_of(int64_t spmm_group) const { return spmm_group >> part_bits_; }
  int32_t level_count() const { return static_cast<int32_t>(levels_.size()); }

  // Fills `out` with levels 0 to `level`. segment_of(l): the segment of level l, asked for once for each of these.
  // Throws ort::Error where the level does not exist, is not in the file, or is malformed. Thread-safe.
  template <class SegmentOf>
  void view(int64_t level, const SegmentOf& segment_of, WeightView& out) const {
    check_level(level);
    out.blocks = 0;
    for (int32_t l = 0; l <= level; ++l) add_level(l, segment_of(static_cast<size_t>(l)), out);
    finish(static_cast<int32_t>(level), out);
  }

 private:
  struct Place {
    int64_t blocks, ptr, col, val, norm;
  };
  ValueType read_value_type(const ort::Attributes& attributes) const;
  void read_gs(const ort::Attributes& attributes);
  void read_quads(const ort::Attributes& attributes);
  int64_t read_offset(const ort::Attributes& attributes, const char* name, int64_t least) const;
  void place_level(int32_t level, const std::vector<int64_t>& blocks, const std::vector<int64_t>& offsets);
  int64_t end_of(int32_t level) const;
  void check_level(int64_t level) const;
  void add_level(int32_t level, const Segment& segment, WeightView& out) const;
  void finish(int32_t level, WeightView& out) const;
  const uint8_t* usable_segment(int32_t level, const Segment& segment) const;
  [[noreturn]] void fail(const std::string& message) const;
  void require(bool condition, const std::string& message) const;
  void validate(int32_t level, const uint8_t* segment) const;
  void validate_columns(int32_t level, const uint8_t* segment) const;
  void validate_quads(const std::string& where, const Place& place, const uint8_t* segment) const;
  void validate_scales(const uint8_t* segment) const;
  void validate_permutation(const uint8_t* segment) const;

  std::string layer_;
  int64_t rows_ = 0;
  int64_t columns_ = 0;
  int64_t groups_ = 0;
  WeightKind kind_{};
  int32_t block_rows_ = 0;
  int32_t part_bits_ = 0;
  int32_t per_row_ = 0;  // k of gather groups, 0 for blocks
  int64_t group_rows_ = 0;
  int64_t block_columns_ = 1;  // columns that a block, gather group or quad names
  int64_t block_values_ = 0;
  int64_t permutation_ = -1;
  int64_t scales_ = -1;  // of int8 weights
  std::vector<Place> levels_;
  mutable std::vector<std::atomic<const uint8_t*>> valid_;  // for each level, the segment whose contents were checked
};

}  // namespace nested_sparse
