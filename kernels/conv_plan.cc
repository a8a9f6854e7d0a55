#include "conv_plan.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <string>

#include "ort_context.h"

namespace nested_sparse {
namespace {

constexpr int64_t kSlack = 64;       // floats; more than the pixels of any vector
constexpr int64_t kPlaneAlign = 16;  // floats: planes start on a cache line
constexpr int64_t kMaxFloats = std::numeric_limits<int32_t>::max() - kSlack;

int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

// a * b, capped: all sizes here are compared with kMaxFloats, far below the cap.
int64_t capped_product(int64_t a, int64_t b) {
  constexpr int64_t kCap = int64_t{1} << 40;
  if (a == 0 || b == 0) return 0;
  return a > kCap / b ? kCap : a * b;
}

void copy_strided(const float* __restrict from, int64_t stride, float* __restrict to, int64_t count) {
  if (stride == 1) {
    std::memcpy(to, from, static_cast<size_t>(count) * sizeof(float));
  } else if (stride == 2) {
    for (int64_t i = 0; i < count; ++i) to[i] = from[2 * i];
  } else {
    for (int64_t i = 0; i < count; ++i) to[i] = from[stride * i];
  }
}

}  // namespace

ConvPlan::ConvPlan(const ConvGeometry& geometry, int64_t channels, int64_t height, int64_t width, int32_t lanes)
    : size_{height, width} {
  place_axis(geometry, 0, height);
  place_axis(geometry, 1, width);
  const bool unpadded =
      geometry.pad_before[0] + geometry.pad_before[1] + geometry.pad_after[0] + geometry.pad_after[1] == 0;
  copies_ = !(geometry.kernel[0] * geometry.kernel[1] * geometry.stride[0] * geometry.stride[1] == 1 && unpadded);
  place_planes(channels);
  place_offsets(geometry, channels);
  place_pixels(lanes);
}

void ConvPlan::place_axis(const ConvGeometry& geometry, int axis, int64_t size) {
  const int64_t stride = geometry.stride[axis];
  const int64_t before = geometry.pad_before[axis];
  const int64_t reach = (geometry.kernel[axis] - 1) * geometry.dilation[axis];
  const int64_t room = size + before + geometry.pad_after[axis] - reach - 1;
  if (room < 0) {
    throw ort::Error("the window spans " + std::to_string(reach + 1) + " pixels, the padded image has " +
                     std::to_string(size + before + geometry.pad_after[axis]) + (axis == 0 ? " rows" : " columns"));
  }
  output_[axis] = room / stride + 1;
  extent_[axis] = output_[axis] + reach / stride;
  stride_[axis] = stride;
  pad_[axis] = before;
  for (int64_t tap = 0; tap < geometry.kernel[axis]; ++tap) {
    const int64_t phase = tap * geometry.dilation[axis] % stride;
    if (phase_index(axis, phase) >= 0) continue;
    const int64_t lead = std::clamp<int64_t>(ceil_div(std::max<int64_t>(before - phase, 0), stride), 0, extent_[axis]);
    const int64_t end = ceil_div(std::max<int64_t>(before + size - phase, 0), stride);
    phases_[axis].push_back(Phase{phase, lead, std::clamp(end, lead, extent_[axis])});
  }
}

// Position of `phase` among the used ones, or -1.
int64_t ConvPlan::phase_index(int axis, int64_t phase) const {
  for (size_t i = 0; i < phases_[axis].size(); ++i) {
    if (phases_[axis][i].phase == phase) return static_cast<int64_t>(i);
  }
  return -1;
}

void ConvPlan::place_planes(int64_t channels) {
  pitch_ = output_[1];
  for (const Phase& phase : phases_[1]) pitch_ = std::max({pitch_, phase.end, extent_[1] - phase.lead});
  plane_ = capped_product(extent_[0], pitch_);
  if (copies_) {
    // The last row's right padding must not be the next plane's first row, which may have no left padding.
    plane_ = ceil_div(plane_ + std::max<int64_t>(extent_[1] - pitch_, 0), kPlaneAlign) * kPlaneAlign;
  }
  const int64_t planes = capped_product(channels, static_cast<int64_t>(phases_[0].size() * phases_[1].size()));
  const int64_t floats = capped_product(planes, plane_);
  if (floats > kMaxFloats) throw ort::Error("the padded image has more than 2^31 values");
  scratch_floats_ = floats + kSlack;
  pixels_ = (output_[0] - 1) * pitch_ + output_[1];
}

void ConvPlan::place_offsets(const ConvGeometry& geometry, int64_t channels) {
  std::vector<int32_t> taps;
  for (int64_t ky = 0; ky < geometry.kernel[0]; ++ky) {
    for (int64_t kx = 0; kx < geometry.kernel[1]; ++kx) {
      const int64_t y = ky * geometry.dilation[0];
      const int64_t x = kx * geometry.dilation[1];
      const int64_t plane =
          phase_index(0, y % stride_[0]) * static_cast<int64_t>(phases_[1].size()) + phase_index(1, x % stride_[1]);
      taps.push_back(static_cast<int32_t>(plane * plane_ + y / stride_[0] * pitch_ + x / stride_[1]));
    }
  }
  const int64_t channel_floats = plane_ * static_cast<int64_t>(phases_[0].size() * phases_[1].size());
  offset_.reserve(static_cast<size_t>(channels) * taps.size());
  for (int64_t c = 0; c < channels; ++c) {
    for (int32_t tap : taps) offset_.push_back(static_cast<int32_t>(c * channel_floats + tap));
  }
}

void ConvPlan::place_pixels(int32_t lanes) {
  if (pitch_ == output_[1]) return;
  places_.resize(static_cast<size_t>(ceil_div(pixels_, lanes)));
  int32_t position = 0;
  for (size_t i = 0; i < places_.size(); ++i) {
    places_[i].position = position;
    for (int32_t lane = 0; lane < lanes; ++lane) {
      const int64_t q = static_cast<int64_t>(i) * lanes + lane;
      const bool kept = q < pixels_ && q % pitch_ < output_[1];
      if (!kept) continue;
      places_[i].mask |= uint32_t{1} << lane;
      ++position;
    }
  }
}

void ConvPlan::copy_channels(const float* image, float* planes, int64_t begin, int64_t end) const {
  const int64_t phases = static_cast<int64_t>(phases_[0].size() * phases_[1].size());
  for (int64_t c = begin; c < end; ++c) {
    float* plane = planes + c * phases * plane_;
    for (const Phase& rows : phases_[0]) {
      for (const Phase& columns : phases_[1]) {
        copy_plane(image + c * size_[0] * size_[1], plane, rows, columns);
        plane += plane_;
      }
    }
  }
}

// Zeros first, then the rows: a call per row costs more than writing the plane twice while it is in the nearest cache.
void ConvPlan::copy_plane(const float* image, float* plane, const Phase& rows, const Phase& columns) const {
  std::memset(plane, 0, static_cast<size_t>(plane_) * sizeof(float));
  const int64_t count = columns.end - columns.lead;
  const float* from = image + columns.lead * stride_[1] + columns.phase - pad_[1];
  for (int64_t i = rows.lead; i < rows.end; ++i) {
    const int64_t y = i * stride_[0] + rows.phase - pad_[0];
    copy_strided(from + y * size_[1], stride_[1], plane + i * pitch_ + columns.lead, count);
  }
}

void ConvPlan::clear_slack(float* planes) const {
  std::fill(planes + scratch_floats_ - kSlack, planes + scratch_floats_, 0.0F);
}

}  // namespace nested_sparse
