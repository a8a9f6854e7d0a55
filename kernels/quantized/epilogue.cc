#include "epilogue.h"

#include <algorithm>
#include <cmath>

namespace nested_sparse {
namespace {

constexpr int kMaxShift = 24;
constexpr double kMaxBias = 1 << 30;
constexpr double kMaxMultiplier = 1.0 / 8;

double clamped(double value, double lo, double hi) {
  return std::fmin(std::fmax(value, lo), hi);
}

// Row constants from m and the offset.
struct Row {
  int32_t bias;
  int32_t shift;
  int16_t multiplier;
};

Row row_of(double m, double offset, double zero) {
  if (!std::isfinite(m) || !std::isfinite(offset)) {
    m = 0;
    offset = zero;
  }
  const double least = std::fmax(std::fabs(offset) / kMaxBias, 1 / kMaxBias);
  if (std::fabs(m) < least) m = std::copysign(least, m);
  int shift = kMaxShift;
  while (shift > 0 && std::fabs(m) * (1 << shift) > kMaxMultiplier) --shift;
  const double multiplier = clamped(std::rint(std::ldexp(m, shift + 18)), -32767, 32767);
  const double bias = clamped(std::rint(offset / m), -kMaxBias, kMaxBias);
  const int32_t half = shift > 0 ? 1 << (shift - 1) : 0;
  return {static_cast<int32_t>(bias) + half, shift, static_cast<int16_t>(multiplier)};
}

int64_t shared_quads(const WeightView& view) {
  const int64_t groups = view.packed_rows / view.block_rows;
  for (int32_t l = 1; l < view.weight.level_count; ++l) {
    if (view.levels[l].ptr[groups] != 0) return 0;
  }
  const PackedLevel& level = view.levels[0];
  const auto* col = static_cast<const uint16_t*>(level.col);
  const uint32_t quads = level.ptr[1];
  for (int64_t group = 1; group < groups; ++group) {
    if (level.ptr[group + 1] - level.ptr[group] != quads) return 0;
    if (!std::equal(col, col + 4 * quads, col + 4 * quads * group)) return 0;
  }
  return quads;
}

}  // namespace

int32_t residual_multiplier(ByteRange residual, ByteRange y) {
  return static_cast<int32_t>(clamped(std::rint(2048.0 * residual.scale / y.scale), 0, 32767));
}

ByteLimits limits_of(Clip clip, ByteRange y) {
  const auto byte_of = [y](float bound) {
    return static_cast<uint8_t>(clamped(std::rint(static_cast<double>(bound) / y.scale) + y.zero, 0, 255));
  };
  return {byte_of(clip.lo), byte_of(clip.hi)};
}

Epilogue make_epilogue(const WeightView& view, const ImageRanges& ranges) {
  const std::vector<int32_t> sums = view.row_sums();
  const bool adds = ranges.residual.scale > 0;
  Epilogue made;
  made.shared_quads = shared_quads(view);
  made.residual_multiplier = adds ? residual_multiplier(ranges.residual, ranges.y) : 0;
  const double added = adds ? made.residual_multiplier / 2048.0 * ranges.residual.zero : 0;
  const double x_scale = ranges.x.scale;
  const double y_scale = ranges.y.scale;
  for (size_t r = 0; r < sums.size(); ++r) {
    const double wanted = x_scale * view.row_scale[r] * view.weight.scale[r] / y_scale;
    const double m = std::clamp(wanted, -kMaxMultiplier, kMaxMultiplier);  // a NaN stays one
    double offset = view.weight.shift[r] / y_scale + ranges.y.zero - m * ranges.x.zero * sums[r];
    // The epilogue's last shift rounds half up, which adds 1 / 16 on average; that of the residual rounds down, which
    // takes it away. Left in, the sum of 16 residual blocks was off by a whole step.
    offset -= adds ? added : 1.0 / 16;
    const Row row = row_of(m, offset, ranges.y.zero);
    made.bias.push_back(row.bias);
    made.shift.push_back(row.shift);
    made.multiplier.push_back(row.multiplier);
  }
  return made;
}

std::shared_ptr<const Epilogue> EpilogueCache::epilogue_for(const WeightView& view, const ImageRanges& ranges) const {
  return recent_.get({view.weight.scale, ranges}, [&] { return make_epilogue(view, ranges); });
}

}  // namespace nested_sparse
