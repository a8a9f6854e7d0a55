#include "plan.h"

#include <algorithm>
#include <string>

namespace nested_sparse {
namespace {

constexpr int64_t kMaxRows = int64_t{1} << 24;  // of a channel's matrices: taps times tiles
constexpr size_t kMaxRuns = size_t{1} << 26;

int64_t divided_up(int64_t value, int64_t by) {
  return value >= 0 ? (value + by - 1) / by : -(-value / by);
}

}  // namespace

BytePlan::BytePlan(const ConvGeometry& geometry, const QuantizedImage& x, ImageLayout y_layout, int64_t channels)
    : x_(x), taps_(geometry.taps()), step_(geometry.stride[1]) {
  x_.data = nullptr;
  output_[0] = output_size(geometry, 0, x.size.height);
  output_[1] = output_size(geometry, 1, x.size.width);
  output_[2] = output_size(geometry, 2, x.size.depth);
  const QuantizedImage y = QuantizedImage::placed(output(1, 1), y_layout);
  // Large padding makes no file larger, but a plan knows every tap of every tile of the output.
  if (y.tiles > kMaxRows / taps_) throw ort::Error("the padded image and the window are too large together");
  for (int64_t tile = 0; tile < y.tiles; ++tile) keep_.push_back(y.keep(tile));
  const bool planes = reads_planes(geometry, y);
  direct_ = planes || reads_tiles(geometry, y);
  if (planes) place_columns(geometry, channels);
  if (!direct_) place_runs(geometry, y);
}

BytePlan::Tap BytePlan::tap_of(const ConvGeometry& geometry, int64_t tap) const {
  const int64_t row = tap / geometry.kernel[1];
  return {row % geometry.kernel[0] * geometry.dilation[0] - geometry.pad_before[0],
          tap % geometry.kernel[1] * geometry.dilation[1] - geometry.pad_before[1],
          row / geometry.kernel[0] * geometry.dilation[2] - geometry.pad_before[2]};
}

bool BytePlan::reads_tiles(const ConvGeometry& geometry, const QuantizedImage& y) const {
  if (x_.planes() || y.pitch() != x_.pitch() || taps_ != 1) return false;
  for (int axis = 0; axis < 3; ++axis) {
    if (geometry.stride[axis] != 1 || geometry.pad_before[axis] + geometry.pad_after[axis] != 0) return false;
  }
  return true;
}

// Whether every tap finds a pixel or the zero point for each pixel of the output, and something in memory for the rest
// of the output's tiles. All zero points that a tap can reach above and below lie between `border` rows; planes share
// them.
bool BytePlan::reads_planes(const ConvGeometry& geometry, const QuantizedImage& y) const {
  if (!x_.planes() || y.pitch() != x_.pitch() || geometry.stride[0] * geometry.stride[1] != 1) return false;
  const bool one_slice = x_.size.depth == 1 && output_[2] == 1 && geometry.kernel[2] == 1;
  if (!one_slice || geometry.pad_before[2] != 0) return false;
  const Tap first = tap_of(geometry, 0);
  const Tap last = tap_of(geometry, taps_ - 1);
  const int64_t end = y.tiles * kTileBytes + last.down * x_.pitch() + last.right;
  return -first.down <= x_.layout.border && output_[0] + last.down <= x_.size.height + x_.layout.border &&
         -first.right <= x_.layout.gap && output_[1] + last.right <= x_.size.width + x_.layout.gap &&
         end <= x_.channel_step + x_.lead;
}

void BytePlan::place_columns(const ConvGeometry& geometry, int64_t channels) {
  offsets_.reserve(static_cast<size_t>(channels * taps_));
  for (int64_t channel = 0; channel < channels; ++channel) {
    for (int64_t t = 0; t < taps_; ++t) {
      const Tap tap = tap_of(geometry, t);
      offsets_.push_back(static_cast<int32_t>(channel * x_.channel_step + tap.down * x_.pitch() + tap.right));
    }
  }
}

void BytePlan::place_runs(const ConvGeometry& geometry, const QuantizedImage& y) {
  first_.reserve(static_cast<size_t>(y.tiles * taps_ + 1));
  for (int64_t tile = 0; tile < y.tiles; ++tile) {
    for (int64_t tap = 0; tap < taps_; ++tap) {
      first_.push_back(static_cast<int32_t>(runs_.size()));
      place_tap(geometry, y, tile, tap);
    }
    if (runs_.size() > kMaxRuns) throw ort::Error("the image and the window are too large together");
  }
  first_.push_back(static_cast<int32_t>(runs_.size()));
}

// Plans what one tile of output positions reads under one tap: row by row, as far as the pixels lie in the image.
void BytePlan::place_tap(const ConvGeometry& geometry, const QuantizedImage& y, int64_t tile, int64_t t) {
  const Tap tap = tap_of(geometry, t);
  const int64_t begin = tile * kTileBytes;
  const int64_t end = std::min(begin + kTileBytes, y.positions());
  for (int64_t row = begin / y.pitch(); row * y.pitch() < end; ++row) {
    const int64_t source = source_row(geometry, tap, row);
    if (source < 0) continue;
    const int64_t first = std::max({begin - row * y.pitch(), divided_up(-tap.right, step_), int64_t{0}});
    const int64_t last = std::min({end - row * y.pitch(), divided_up(x_.size.width - tap.right, step_), output_[1]});
    place_row(source, tap, first, last, row * y.pitch() - begin);
  }
}

// The row of the input, counted on from slice to slice, that an output's row reads under a tap; -1 for padding.
int64_t BytePlan::source_row(const ConvGeometry& geometry, Tap tap, int64_t row) const {
  const int64_t slice = row / output_[0] * geometry.stride[2] + tap.behind;
  const int64_t line = row % output_[0] * geometry.stride[0] + tap.down;
  const bool inside = slice >= 0 && slice < x_.size.depth && line >= 0 && line < x_.size.height;
  return inside ? slice * x_.size.height + line : -1;
}

// Plans output columns [column, end), which lie from `to` + column on in the row of the matrix. A run ends where an
// input tile ends.
void BytePlan::place_row(int64_t source_row, Tap tap, int64_t column, int64_t end, int64_t to) {
  while (column < end) {
    const int64_t position = source_row * x_.pitch() + column * step_ + tap.right;
    int64_t count = end - column;
    int64_t source = position;
    if (!x_.planes()) {
      count = std::min(count, divided_up(kTileBytes - position % kTileBytes, step_));
      source += position / kTileBytes * kTileBytes * (x_.size.channels - 1);
    }
    runs_.push_back({static_cast<int32_t>(source), static_cast<uint8_t>(to + column), static_cast<uint8_t>(count)});
    column += count;
  }
}

void BytePlan::gather(Gather8Kernel kernel, const QuantizedImage& x, int64_t n, int64_t tile, int64_t begin,
                      int64_t end, uint8_t* matrix) const {
  kernel({x.at(n, 0), begin, end, x.channel_step, runs_.data(), first_.data() + tile * taps_, taps_,
          static_cast<int32_t>(step_), x.range.zero, matrix});
}

}  // namespace nested_sparse
