#include "nested_weight.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

namespace nested_sparse {
namespace {

constexpr int64_t kMaxCount = std::numeric_limits<int32_t>::max();
constexpr int64_t kMaxBlocks = std::numeric_limits<uint32_t>::max();
constexpr int64_t kMaxOffset = int64_t{1} << 48;
constexpr int64_t kAlignment = 64;
constexpr int64_t kQuad = 4;                // columns of a quad
constexpr int64_t kMaxInt8Columns = 32768;  // sums of so many int8 weights times bytes stay below 2^30

constexpr int64_t kMaxBlockRows = 128;

bool is_block_rows(int64_t v) {
  return v >= 1 && v <= kMaxBlockRows && (v & (v - 1)) == 0;
}

std::string number(int64_t value) {
  return std::to_string(value);
}

template <class Index>
bool columns_in_range(const void* col, int64_t count, int64_t columns) {
  const auto* begin = static_cast<const Index*>(col);
  return std::all_of(begin, begin + count, [columns](Index c) { return static_cast<int64_t>(c) < columns; });
}

template <class Index>
bool columns_rise(const void* col, const uint32_t* ptr, int64_t groups) {
  const auto* columns = static_cast<const Index*>(col);
  for (int64_t group = 0; group < groups; ++group) {
    const Index* const end = columns + ptr[group + 1];
    if (std::adjacent_find(columns + ptr[group], end, std::greater_equal<>()) != end) return false;
  }
  return true;
}

}  // namespace

NestedWeight::NestedWeight(const ort::Attributes& attributes) : layer_(attributes.text("layer")) {
  rows_ = attributes.integer("rows");
  columns_ = attributes.integer("columns");
  require(rows_ >= 1 && rows_ <= kMaxCount, "rows must be 1 to 2^31 - 1, got " + number(rows_));
  require(columns_ >= 1 && columns_ <= kMaxCount, "columns must be 1 to 2^31 - 1, got " + number(columns_));
  const int64_t block_rows = attributes.integer("block_rows");
  require(is_block_rows(block_rows), "block_rows must be 1, 2, 4, 8, 16, 32, 64 or 128, got " + number(block_rows));
  block_rows_ = static_cast<int32_t>(block_rows);
  kind_.block_rows = std::min(block_rows_, kPartRows);
  while (kind_.block_rows << part_bits_ < block_rows_) ++part_bits_;
  read_gs(attributes);
  groups_ = (rows_ + group_rows_ - 1) / group_rows_;
  const int64_t index_bytes = attributes.integer("index_bytes");
  require(index_bytes == 4 || (index_bytes == 2 && columns_ <= 65536),
          "index_bytes must be 4, or 2 where columns are at most 65536, got " + number(index_bytes));
  kind_.index_bytes = static_cast<int32_t>(index_bytes);
  kind_.value_type = read_value_type(attributes);
  if (kind_.value_type == ValueType::int8) read_quads(attributes);
  permutation_ = read_offset(attributes, "permutation_offset", -1);

  const std::vector<int64_t> blocks = attributes.integers("blocks");
  require(!blocks.empty() && blocks.size() <= kMaxLevels,
          "blocks must hold 1 to 255 levels, got " + number(blocks.size()));
  const std::vector<int64_t> offsets = attributes.integers("offsets", 4 * blocks.size());
  for (size_t level = 0; level < blocks.size(); ++level) place_level(static_cast<int32_t>(level), blocks, offsets);
  valid_ = std::vector<std::atomic<const uint8_t*>>(blocks.size());
}

// A file names the type by the bytes of a value. It has no such attribute for float32.
ValueType NestedWeight::read_value_type(const ort::Attributes& attributes) const {
  const int64_t nbytes = attributes.integer("value_bytes", info_of(ValueType::float32).nbytes);
  std::string known;
  for (const ValueTypeInfo& info : kValueTypes) {
    if (info.nbytes == nbytes) return info.type;
    known += (known.empty() ? "" : ", ") + number(info.nbytes) + " (" + info.name + ")";
  }
  fail("value_bytes must be one of " + known + ", got " + number(nbytes));
}

// Files of format version 1 do not have the attributes of gather groups.
void NestedWeight::read_gs(const ort::Attributes& attributes) {
  const int64_t banks = attributes.integer("banks", 0);
  const int64_t per_row = attributes.integer("per_row", 0);
  if (banks == 0) {
    require(per_row == 0, "per_row must be 0 without banks, got " + number(per_row));
    group_rows_ = block_values_ = block_rows();
    return;
  }
  require(banks == 8 || banks == 16, "banks must be 0, 8 or 16, got " + number(banks));
  require(per_row >= 1 && banks % per_row == 0,
          "per_row must divide banks " + number(banks) + ", got " + number(per_row));
  require(block_rows() == 1, "block_rows must be 1 with banks, got " + number(block_rows()));
  kind_.banks = static_cast<int32_t>(banks);
  per_row_ = static_cast<int32_t>(per_row);
  group_rows_ = banks / per_row;
  block_columns_ = block_values_ = banks;
}

// Weights of int8 lie in quads, whatever their pattern.
void NestedWeight::read_quads(const ort::Attributes& attributes) {
  require(banks() == 0, "banks must be 0 where value_bytes is 1, got " + number(banks()));
  require(block_rows() <= kPartRows,
          "block_rows must be at most 16 where value_bytes is 1, got " + number(block_rows()));
  require(kind_.index_bytes == 2, "index_bytes must be 2 where value_bytes is 1, got " + number(kind_.index_bytes));
  require(columns_ <= kMaxInt8Columns,
          "columns must be at most " + number(kMaxInt8Columns) + " where value_bytes is 1, got " + number(columns_));
  scales_ = read_offset(attributes, "scale_offset", 0);
  block_columns_ = kQuad;
  block_values_ = kQuad * block_rows();
}

int64_t NestedWeight::read_offset(const ort::Attributes& attributes, const char* name, int64_t least) const {
  const int64_t offset = attributes.integer(name);
  require(offset >= least && offset <= kMaxOffset && (offset == -1 || offset % kAlignment == 0),
          std::string(name) + " must be " + (least < 0 ? "-1 or " : "") + "a multiple of 64, got " + number(offset));
  return offset;
}

void NestedWeight::fail(const std::string& message) const {
  throw ort::Error("layer '" + layer_ + "': " + message);
}

void NestedWeight::require(bool condition, const std::string& message) const {
  if (!condition) fail(message);
}

void NestedWeight::place_level(int32_t level, const std::vector<int64_t>& blocks, const std::vector<int64_t>& offsets) {
  const int64_t count = blocks[level];
  // Quads hold four columns, of which the last ones of a group may be padding; gather groups hold k of each row.
  const int64_t in_block = scales_ < 0 ? std::max(per_row_, 1) : kQuad;
  const int64_t most = groups_ * (scales_ < 0 ? columns_ / in_block : (columns_ + in_block - 1) / in_block);
  require(count >= 0 && count <= kMaxBlocks && count <= most,
          "level " + number(level) + ": blocks must be 0 to groups x columns, got " + number(count));
  for (int part = 0; part < 4; ++part) {
    const int64_t offset = offsets[4 * level + part];
    require(offset >= 0 && offset <= kMaxOffset && offset % kAlignment == 0,
            "level " + number(level) + ": offsets must be multiples of 64, got " + number(offset));
  }
  const int64_t* at = offsets.data() + 4 * static_cast<size_t>(level);
  levels_.push_back(Place{count, at[0], at[1], at[2], at[3]});
}

// The bytes that a segment needs at least, so that every array of `level` lies inside it.
int64_t NestedWeight::end_of(int32_t level) const {
  const Place& place = levels_[level];
  int64_t end = std::max({place.ptr + 4 * (groups_ + 1), place.col + kind_.index_bytes * block_columns_ * place.blocks,
                          place.val + info_of(kind_.value_type).nbytes * block_values_ * place.blocks,
                          place.norm + 8 * packed_rows()});
  if (level == 0 && permutation_ >= 0) end = std::max(end, permutation_ + 4 * packed_rows());
  if (level == 0 && scales_ >= 0) end = std::max(end, scales_ + 4 * packed_rows());
  return end;
}

// Called at every run, so it makes texts only where it fails.
const uint8_t* NestedWeight::usable_segment(int32_t level, const Segment& segment) const {
  if (segment.nbytes == 0) fail("level " + number(level) + " is not in this file; choose a lower level");
  if (segment.nbytes < end_of(level)) {
    fail("the segment of level " + number(level) + " is too short: expected at least " + number(end_of(level)) +
         " bytes, got " + number(segment.nbytes));
  }
  if (valid_[level].load(std::memory_order_acquire) != segment.data) validate(level, segment.data);
  return segment.data;
}

void NestedWeight::check_level(int64_t level) const {
  if (level >= 0 && level < level_count()) return;
  fail("level must be 0 to " + number(level_count() - 1) + ", got " + number(level));
}

void NestedWeight::add_level(int32_t level, const Segment& segment, WeightView& out) const {
  out.densest = usable_segment(level, segment);
  if (level == 0) out.sparsest = out.densest;
  const Place& place = levels_[level];
  out.levels[level] = PackedLevel{reinterpret_cast<const uint32_t*>(out.densest + place.ptr), out.densest + place.col,
                                  out.densest + place.val};
  out.blocks += place.blocks * block_columns_;
}

// After all levels have been added.
void NestedWeight::finish(int32_t level, WeightView& out) const {
  const auto* norm = reinterpret_cast<const float*>(out.densest + levels_[level].norm);
  const auto* perm = permutation_ < 0 ? nullptr : reinterpret_cast<const int32_t*>(out.sparsest + permutation_);
  out.weight =
      PackedWeight{out.levels, level + 1, norm, norm + packed_rows(), perm, rows_, per_row_, columns_, part_bits_};
  out.row_scale = scales_ < 0 ? nullptr : reinterpret_cast<const float*>(out.sparsest + scales_);
  out.packed_rows = packed_rows();
  out.block_rows = block_rows();
}

void NestedWeight::validate(int32_t level, const uint8_t* segment) const {
  require(reinterpret_cast<uintptr_t>(segment) % alignof(float) == 0,
          "the segment of level " + number(level) + " is not aligned to 4 bytes");
  validate_columns(level, segment);
  if (level == 0 && permutation_ >= 0) validate_permutation(segment);
  if (level == 0 && scales_ >= 0) validate_scales(segment);
  valid_[level].store(segment, std::memory_order_release);
}

void NestedWeight::validate_columns(int32_t level, const uint8_t* segment) const {
  const Place& place = levels_[level];
  const auto* ptr = reinterpret_cast<const uint32_t*>(segment + place.ptr);
  const std::string where = "level " + number(level);
  require(ptr[0] == 0 && std::is_sorted(ptr, ptr + groups_ + 1), where + ": ptr must start at 0 and ascend");
  require(ptr[groups_] == place.blocks,
          where + ": ptr must end at " + number(place.blocks) + " blocks, got " + number(ptr[groups_]));
  const void* col = segment + place.col;
  const int64_t count = place.blocks * block_columns_;
  const bool in_range = kind_.index_bytes == 2 ? columns_in_range<uint16_t>(col, count, columns_)
                                               : columns_in_range<uint32_t>(col, count, columns_);
  require(in_range, where + ": a column is not below " + number(columns_));
  if (banks() > 0) return;
  if (scales_ >= 0) return validate_quads(where, place, segment);
  const bool rising =
      kind_.index_bytes == 2 ? columns_rise<uint16_t>(col, ptr, groups_) : columns_rise<uint32_t>(col, ptr, groups_);
  require(rising, where + ": the columns of a group do not rise");
}

// The columns of a group rise. Where they fill no whole quad, the last column repeats, with weights of zero.
void NestedWeight::validate_quads(const std::string& where, const Place& place, const uint8_t* segment) const {
  const auto* ptr = reinterpret_cast<const uint32_t*>(segment + place.ptr);
  const auto* col = reinterpret_cast<const uint16_t*>(segment + place.col);
  const auto* val = reinterpret_cast<const int8_t*>(segment + place.val);
  for (int64_t group = 0; group < groups_; ++group) {
    const int64_t end = kQuad * ptr[group + 1];
    for (int64_t i = kQuad * ptr[group] + 1; i < end; ++i) {
      if (col[i] > col[i - 1]) continue;
      require(col[i] == col[i - 1] && i > end - kQuad, where + ": the columns of a group do not rise");
      for (int64_t row = 0; row < block_rows(); ++row) {
        require(val[i / kQuad * block_values_ + row * kQuad + i % kQuad] == 0,
                where + ": a weight of a repeated column is not zero");
      }
    }
  }
}

void NestedWeight::validate_scales(const uint8_t* segment) const {
  const auto* scales = reinterpret_cast<const float*>(segment + scales_);
  for (int64_t r = 0; r < packed_rows(); ++r) {
    if (std::isnormal(scales[r]) && scales[r] > 0) continue;
    fail("the scale of a row must be a normal number above 0; scale " + number(r) + " is " + std::to_string(scales[r]));
  }
}

void NestedWeight::validate_permutation(const uint8_t* segment) const {
  const auto* perm = reinterpret_cast<const int32_t*>(segment + permutation_);
  std::vector<bool> seen(rows_);
  for (int64_t r = 0; r < packed_rows(); ++r) {
    const bool padding = r >= rows_;
    const bool valid = padding ? perm[r] == -1 : perm[r] >= 0 && perm[r] < rows_ && !seen[perm[r]];
    require(valid, "the permutation must hold each of 0 to " + number(rows_ - 1) + " once, then -1; entry " +
                       number(r) + " is " + number(perm[r]));
    if (!padding) seen[perm[r]] = true;
  }
}

void WeightView::quads(QuadLevel* out) const {
  for (int32_t l = 0; l < weight.level_count; ++l) {
    out[l] = {levels[l].ptr, static_cast<const uint16_t*>(levels[l].col), static_cast<const int8_t*>(levels[l].val)};
  }
}

std::vector<int32_t> WeightView::row_sums() const {
  std::vector<int32_t> sums(static_cast<size_t>(packed_rows));
  for (int32_t l = 0; l < weight.level_count; ++l) {
    const auto* val = values_of<int8_t>(levels[l]);
    for (int64_t first = 0, group = 0; first < packed_rows; first += block_rows, ++group) {
      for (uint32_t quad = levels[l].ptr[group]; quad < levels[l].ptr[group + 1]; ++quad) {
        for (int32_t row = 0; row < block_rows; ++row, val += kQuad) {
          sums[first + row] += val[0] + val[1] + val[2] + val[3];
        }
      }
    }
  }
  return sums;
}

}  // namespace nested_sparse
