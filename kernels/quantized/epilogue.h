// Epilogue: the integers that turn the sums of an int8 layer into bytes of its output (spmm8/spmm8.h has the formula).
//
// For row r of a run, in double precision and in this order, without fused operations:
//
//   m      = clamp(s_x * s_w[r] * g[r] / s_y) within 1/8
//   offset = b[r] / s_y + z_y - m * z_x * (sum of the row's weights)      [ - (R / 2^11) * z_res + 1/16 ]
//
// with g and b the level's norm. Where one of the two is not finite, m = 0 and offset = z_y. |m| is raised to
// |offset| / 2^30 and to 2^-30, so that a row whose weights or norm are zero is the constant `offset`. Then shift is
// the largest k in 0 .. 24 with |m| * 2^k <= 1/8, or else 0;
//
//   multiplier = clamp(rint(m * 2^(k + 18)))   16 bits
//   bias       = clamp(rint(offset / m))  within 2^30,  + 2^(k - 1) where k > 0, which rounds the shift
//   R          = clamp(rint(2^11 * s_res / s_y))  within 0 .. 32767
//
// tests/integer_reference.py is the same arithmetic in Python.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "../nested_weight.h"
#include "image.h"
#include "recent.h"

namespace nested_sparse {

// The ranges of the images of a run. A residual that is absent has scale 0.
struct ImageRanges {
  ByteRange x;
  ByteRange y;
  ByteRange residual;
  bool operator==(const ImageRanges& other) const { return x == other.x && y == other.y && residual == other.residual; }
};

// [packed rows] each.
struct Epilogue {
  std::vector<int32_t> bias;
  std::vector<int32_t> shift;
  std::vector<int16_t> multiplier;
  int32_t residual_multiplier;  // R
  // Quads of each row group, where all groups have the columns of the first one and only level 0 has any; or 0.
  int64_t shared_quads;
};

Epilogue make_epilogue(const WeightView& view, const ImageRanges& ranges);

// R of an image that is added to sums of range y.
int32_t residual_multiplier(ByteRange residual, ByteRange y);

struct ByteLimits {
  uint8_t lo;
  uint8_t hi;
};
// The bytes that stand for the bounds of y's values; an infinite bound is no bound.
ByteLimits limits_of(Clip clip, ByteRange y);

// The epilogues of an operator's last runs, so that a run like an earlier one makes none. Thread-safe.
class EpilogueCache {
 public:
  std::shared_ptr<const Epilogue> epilogue_for(const WeightView& view, const ImageRanges& ranges) const;

 private:
  struct Key {
    const float* norm;  // names the level, and the segment in which it lies
    ImageRanges ranges;
    bool operator==(const Key& other) const { return norm == other.norm && ranges == other.ranges; }
  };
  Recent<Key, Epilogue> recent_;
};

}  // namespace nested_sparse
