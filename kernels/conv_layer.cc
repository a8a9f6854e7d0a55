#include "conv_layer.h"

#include <algorithm>
#include <string>

namespace nested_sparse {
namespace {

// A weight of kCutFrom columns or more is cut into ranges of about kRangeColumns columns. The matrix of a range fits
// into L2 together with the weights.
constexpr int64_t kCutFrom = 3072;
constexpr int64_t kRangeColumns = 1152;

}  // namespace

MatrixName& held_name() {
  thread_local MatrixName held{};
  return held;
}

int64_t channels_of_range(int64_t channels, int64_t taps) {
  return channels * taps < kCutFrom ? channels : std::max<int64_t>(kRangeColumns / taps, 1);
}

ConvLayer::ConvLayer(const ort::Attributes& attributes, int64_t spatial)
    : NestedOperator(attributes),
      spatial_(read_spatial(attributes, spatial)),
      geometry_(read_geometry(attributes, spatial_)),
      channel_groups_(read_choice(attributes, "groups", 1, weight_.rows(), 1)),
      channels_(weight_.columns() / geometry_.taps()),
      depthwise_(channel_groups_ > 1 && channel_groups_ == weight_.rows() && channels_ == 1) {
  if (channels_ * geometry_.taps() != weight_.columns()) {
    fail("columns must be a multiple of the window's " + std::to_string(geometry_.taps()) + " taps, got " +
         std::to_string(weight_.columns()));
  }
  if (channel_groups_ > 1 && weight_.rows() % (channel_groups_ * weight_.block_rows()) != 0) {
    fail("the rows of each of the " + std::to_string(channel_groups_) + " groups must be whole blocks of " +
         std::to_string(weight_.block_rows()) + ", got " + std::to_string(weight_.rows()) + " rows in all");
  }
}

void ConvLayer::check_channels(const ImageSize& x) const {
  if (x.channels == channel_groups_ * channels_) return;
  fail("X must be [N, " + std::to_string(channel_groups_ * channels_) + ", H, W], got " + x.text());
}

void ConvLayer::check_output(const ImageSize& size) const {
  if (spatial_ == 1 && size.height != 1) fail("with one spatial dimension Y must have one row, got " + size.text());
  if (spatial_ != 3 && size.depth != 1) fail("without three spatial dimensions Y has one slice, got " + size.text());
}

void ConvLayer::check_residual(const ImageSize& residual, const ImageSize& size) const {
  if (residual == size) return;
  fail("the residual must have the output's shape " + size.text() + ", got " + residual.text());
}

}  // namespace nested_sparse
