#include "depthwise_plan.h"

#include <algorithm>

namespace nested_sparse {
namespace {

constexpr int64_t kBandFloats = 12288;    // of the planes and sums of a band: they stay in L1
constexpr int64_t kMostFloats = 1 << 18;  // of a plane: beyond, it is mostly padding, or does not stay in L2
constexpr int64_t kMostPositions = 1 << 26;
constexpr int64_t kMostTaps = 4096;

}  // namespace

DepthwisePlan::DepthwisePlan(const ConvGeometry& geometry, const Image& x, TileShape shape)
    : size_(x.size), lanes_(shape.lanes), step_(geometry.stride[1] == 2 ? 2 : 1) {
  if (geometry.taps() > kMostTaps) return;
  for (int axis = 0; axis < 3; ++axis) {
    const int64_t sizes[] = {x.size.height, x.size.width, x.size.depth};
    const int64_t stride = geometry.stride[axis];
    output_[axis] = output_size(geometry, axis, sizes[axis]);
    const int64_t padded = sizes[axis] + geometry.pad_before[axis] + geometry.pad_after[axis];
    Axis& each = axes_[axis] = {stride, geometry.pad_before[axis], sizes[axis], (padded + stride - 1) / stride, {}};
    if (each.length > 4 * output_[axis] + 64) return;
    for (int64_t tap = 0; tap < geometry.kernel[axis]; ++tap) {
      const int64_t phase = tap * geometry.dilation[axis] % stride;
      if (std::find(each.phases.begin(), each.phases.end(), phase) == each.phases.end()) each.phases.push_back(phase);
    }
    std::sort(each.phases.begin(), each.phases.end());
  }
  flat_ = is_flat(geometry);
  if (flat_) axes_[1].length = x.size.width;
  const int64_t lines = output_[2] * axes_[0].length;
  if (x.image_floats() > kMostPositions || axes_[1].length > kMostPositions / lines) return;
  for (int64_t tap = 0; tap < geometry.taps(); ++tap) {
    const int64_t area = geometry.kernel[0] * geometry.kernel[1];
    const int64_t at[] = {tap % area / geometry.kernel[1], tap % geometry.kernel[1], tap / area};
    int64_t plane = 0;
    int64_t shift = 0;
    for (const int axis : {2, 0, 1}) {
      const Axis& each = axes_[axis];
      const int64_t seen = at[axis] * geometry.dilation[axis];
      const auto phase = std::lower_bound(each.phases.begin(), each.phases.end(), seen % each.stride);
      plane = plane * static_cast<int64_t>(each.phases.size()) + (phase - each.phases.begin());
      shift = shift * each.length + seen / each.stride;
    }
    plane_of_tap_.push_back(flat_ ? at[1] : plane);
    shift_of_tap_.push_back(shift);
    reach_ = std::max(reach_, shift);
  }
  const Tiling tiling(output_[0] * output_[1] * output_[2], shape.lanes, shape.vectors);
  const auto phases = static_cast<int64_t>(axes_[0].phases.size() * axes_[1].phases.size() * axes_[2].phases.size());
  const int64_t planes = flat_ ? geometry.kernel[1] : phases;
  const int64_t wanted =
      std::clamp<int64_t>(lines * axes_[1].length * (planes + 1) * kChannelsTogether / kBandFloats, 1, tiling.tiles);
  for (int64_t i = 0; i < wanted; ++i) {
    Band band{tiling.tiles * i / wanted, tiling.tiles * (i + 1) / wanted, 0, 0, 0, 0, {}, {}, {}, {}};
    band.first_pixel = tiling.first_pixel(band.first_tile);
    band.pixels = tiling.first_pixel(band.end_tile) - band.first_pixel;
    const int64_t end = std::min(band.first_pixel + band.pixels, tiling.pixels);
    band.count = position(end - 1) + 1 - position(band.first_pixel);
    if (band.count + reach_ > kMostFloats / planes) {
      bands_.clear();
      return;
    }
    band.plane_floats = planes * (band.count + reach_);
    for (size_t tap = 0; tap < shift_of_tap_.size(); ++tap) {
      band.offsets.push_back(static_cast<int32_t>(plane_of_tap_[tap] * (band.count + reach_) + shift_of_tap_[tap]));
    }
    for (int64_t pixel = band.first_pixel; !flat_ && pixel < end;) {
      const int64_t count = std::min(output_[1] - pixel % output_[1], end - pixel);
      band.lines.push_back({static_cast<int32_t>(position(pixel) - position(band.first_pixel)),
                            static_cast<int32_t>(pixel - band.first_pixel), static_cast<int32_t>(count)});
      pixel += count;
    }
    flat_ ? place_flat(geometry, x, band) : place(x, band);
    bands_.push_back(std::move(band));
  }
}

// Whether planes without padding can be used, and take fewer vectors: those that are copied in, added up and copied
// out.
bool DepthwisePlan::is_flat(const ConvGeometry& geometry) const {
  const bool one_slice = output_[2] == 1 && size_.depth == 1 && geometry.kernel[2] == 1;
  if (!one_slice || geometry.stride[0] != 1 || geometry.stride[1] != 1 || output_[1] != size_.width) return false;
  const auto vectors = [this](int64_t pixels) { return (pixels + lanes_ - 1) / lanes_; };
  const int64_t padded = size_.height * vectors(size_.width) + output_[0] * vectors(output_[1]) +
                         geometry.taps() * vectors(output_[0] * axes_[1].length);
  const int64_t flat =
      geometry.kernel[1] * vectors(size_.height * size_.width) + geometry.taps() * vectors(output_[0] * output_[1]);
  return flat < padded;
}

// The position of an output pixel in the planes: as that of its first tap.
int64_t DepthwisePlan::position(int64_t pixel) const {
  const int64_t line = pixel / output_[1];
  return (line / output_[0] * axes_[0].length + line % output_[0]) * axes_[1].length + pixel % output_[1];
}

void DepthwisePlan::place(const Image& x, Band& band) const {
  const int64_t width = axes_[1].length;
  const int64_t first = position(band.first_pixel);
  const int64_t end = first + band.count + reach_;
  int64_t to = 0;
  for (const int64_t slice : axes_[2].phases) {
    for (const int64_t row : axes_[0].phases) {
      for (const int64_t column : axes_[1].phases) {
        for (int64_t line = first / width; line * width < end; ++line) {
          const int64_t begin = std::max(first, line * width);
          place_line(x, band, {row, column, slice}, line, begin - line * width,
                     std::min(end, (line + 1) * width) - line * width, to + begin - first);
        }
        to += band.count + reach_;
      }
    }
  }
}

// Places what positions [begin, end) of a line of one plane show of the image; the first of them is float `to` of the
// plane's memory.
void DepthwisePlan::place_line(const Image& x, Band& band, const int64_t (&phase)[3], int64_t line, int64_t begin,
                               int64_t end, int64_t to) const {
  const int64_t row = line % axes_[0].length * axes_[0].stride + phase[0] - axes_[0].before;
  const int64_t slice = line / axes_[0].length * axes_[2].stride + phase[2] - axes_[2].before;
  if (row < 0 || row >= size_.height || slice < 0 || slice >= size_.depth) return;
  int64_t lane = lanes_;  // of the piece that is open; all are taken where none is
  for (int64_t i = begin; i < end; ++i) {
    const int64_t column = i * axes_[1].stride + phase[1] - axes_[1].before;
    if (column < 0 || column >= size_.width) continue;
    const Source source = source_of(x, (slice * size_.height + row) * size_.width + column);
    const bool goes_on = lane < lanes_ && source.offset == band.pieces.back().offset + lane * step_ &&
                         source.pitch == band.pieces.back().pitch;
    if (!goes_on) {
      band.pieces.push_back({static_cast<int32_t>(source.offset), static_cast<int32_t>(source.pitch), 0});
      band.places.push_back(static_cast<int32_t>(to + i - begin));
      lane = 0;
    }
    band.pieces.back().mask |= uint32_t{1} << (lane++ * step_);
  }
}

// Places what each column of the window sees, in planes without padding between rows. The position of an output pixel
// is its number, and the column is that of the output pixel plus `right`.
void DepthwisePlan::place_flat(const ConvGeometry& geometry, const Image& x, Band& band) const {
  const int64_t width = size_.width;
  const int64_t before = axes_[0].before * width + axes_[1].before;
  int64_t to = 0;
  for (int64_t tap = 0; tap < geometry.kernel[1]; ++tap, to += band.count + reach_) {
    const int64_t right = tap * geometry.dilation[1] - axes_[1].before;
    int64_t begun = -lanes_;  // position of the first lane of the piece that is open
    for (int64_t at = 0; at < band.count + reach_; ++at) {
      const int64_t pixel = band.first_pixel + at - before;
      if (pixel < 0 || pixel >= size_.height * width) continue;
      const int64_t output_column = pixel % width - right;
      if (output_column < 0 || output_column >= width) continue;
      const Source source = source_of(x, pixel);
      const bool goes_on = at - begun < lanes_ && source.offset == band.pieces.back().offset + at - begun &&
                           source.pitch == band.pieces.back().pitch;
      if (!goes_on) {
        band.pieces.push_back({static_cast<int32_t>(source.offset), static_cast<int32_t>(source.pitch), 0});
        band.places.push_back(static_cast<int32_t>(to + at));
        begun = at;
      }
      band.pieces.back().mask |= uint32_t{1} << (at - begun);
    }
  }
}

size_t DepthwisePlan::nbytes() const {
  size_t nbytes = sizeof *this;
  for (const Band& band : bands_) {
    nbytes += sizeof band + band.pieces.size() * (sizeof(Piece) + sizeof(int32_t)) +
              band.offsets.size() * sizeof(int32_t) + band.lines.size() * sizeof(Line);
  }
  return nbytes;
}

DepthwiseArgs DepthwisePlan::arguments(const Band& band) const {
  DepthwiseArgs args{};
  args.pieces = band.pieces.data();
  args.places = band.places.data();
  args.piece_count = static_cast<int64_t>(band.pieces.size());
  args.step = step_;
  args.offsets = band.offsets.data();
  args.taps = static_cast<int64_t>(band.offsets.size());
  args.count = band.count;
  args.lines = band.lines.data();
  args.line_count = static_cast<int64_t>(band.lines.size());
  args.pitch = band.pixels + lanes_;
  return args;
}

}  // namespace nested_sparse
