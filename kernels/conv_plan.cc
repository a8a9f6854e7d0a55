#include "conv_plan.h"

#include <algorithm>
#include <limits>
#include <string>

#include "operator.h"

namespace nested_sparse {
namespace {

constexpr int64_t kMaxFloats = std::numeric_limits<int32_t>::max();
constexpr int64_t kMaxGeometry = 1 << 20;
constexpr int64_t kMaxPieces = 1 << 26;  // 7 x 7 taps over 4096 x 4096 pixels in vectors of 16 have 49 << 20

}  // namespace

Source source_of(const Image& x, int64_t pixel) {
  if (!x.tiled) return Source{pixel, x.tiling.pixels, x.tiling.pixels - pixel};
  const int64_t tile = x.tiling.tile_of(pixel), into = pixel - x.tiling.first_pixel(tile);
  const int64_t pitch = x.tiling.pitch(tile);
  return Source{x.tiling.offset(x.size.channels, tile) + into, pitch, pitch - into};
}

void read_sizes(const ort::Attributes& attributes, const char* name, int64_t spatial, int64_t least, int64_t of_slice,
                std::initializer_list<int64_t*> sizes) {
  const int64_t axes = spatial == 3 ? 3 : 2;
  const std::vector<int64_t> values = attributes.integers(name, static_cast<size_t>(axes) * sizes.size());
  const int64_t* value = values.data();
  for (int64_t* const size : sizes) {
    size[2] = of_slice;
    for (int64_t i = 0; i < axes; ++i, ++value) {
      if (*value < least || *value > kMaxGeometry) {
        throw ort::Error("attribute '" + std::string(name) + "': expected values of " + std::to_string(least) +
                         " or more, got " + std::to_string(*value));
      }
      size[(i + 5 - axes) % 3] = *value;
    }
  }
}

ConvGeometry read_geometry(const ort::Attributes& attributes, int64_t spatial) {
  ConvGeometry geometry{};
  read_sizes(attributes, "kernel_shape", spatial, 1, 1, {geometry.kernel});
  read_sizes(attributes, "strides", spatial, 1, 1, {geometry.stride});
  read_sizes(attributes, "dilations", spatial, 1, 1, {geometry.dilation});
  read_sizes(attributes, "pads", spatial, 0, 0, {geometry.pad_before, geometry.pad_after});
  return geometry;
}

int64_t read_spatial(const ort::Attributes& attributes, int64_t most) {
  return read_choice(attributes, "spatial_dimensions", 1, most, 2);
}

void check_pieces(const Tiling& tiling, int64_t taps) {
  if (tiling.vectors > kMaxPieces / taps) throw ort::Error("the padded image and the window are too large together");
}

int64_t output_size(const ConvGeometry& geometry, int axis, int64_t size) {
  const int64_t padded = size + geometry.pad_before[axis] + geometry.pad_after[axis];
  const int64_t reach = (geometry.kernel[axis] - 1) * geometry.dilation[axis] + 1;
  if (reach > padded) {
    constexpr const char* kNames[] = {" rows", " columns", " slices"};
    throw ort::Error("the window spans " + std::to_string(reach) + " pixels, the padded image has " +
                     std::to_string(padded) + kNames[axis]);
  }
  return (padded - reach) / geometry.stride[axis] + 1;
}

ConvPlan::ConvPlan(const ConvGeometry& geometry, const Image& x, TileShape shape)
    : size_{x.size.height, x.size.width, x.size.depth},
      channels_(x.size.channels),
      taps_(geometry.taps()),
      step_(geometry.stride[1] == 2 ? 2 : 1) {
  if (x.image_floats() > kMaxFloats) throw ort::Error("the image has more than 2^31 values");
  direct_ = x.tiled && taps_ == 1;
  for (int axis = 0; axis < 3; ++axis) {
    output_[axis] = output_size(geometry, axis, size_[axis]);
    direct_ &= geometry.stride[axis] == 1 && geometry.pad_before[axis] == 0 && geometry.pad_after[axis] == 0;
  }
  if (output_[0] > kMaxFloats / output_[1] || output_[0] * output_[1] > kMaxFloats / output_[2]) {
    throw ort::Error("the output image has more than 2^31 pixels");
  }
  tiling_ = Tiling(output_[0] * output_[1] * output_[2], shape.lanes, shape.vectors);
  if (!direct_) place_pieces(geometry, x);
}

void ConvPlan::place_pieces(const ConvGeometry& geometry, const Image& x) {
  // Large padding makes no file larger, but the plan holds a piece for every tap of every vector of the output.
  check_pieces(tiling_, taps_);
  pieces_.reserve(static_cast<size_t>(taps_ * tiling_.vectors));
  for (int64_t tile = 0; tile < tiling_.tiles; ++tile) {
    widest_ = std::max(widest_, tiling_.pitch(tile));
    const int64_t width = tiling_.width(tile), line = tiling_.first_pixel(tile) / output_[1];
    const int64_t column = tiling_.first_pixel(tile) % output_[1];
    for (int64_t tap = 0; tap < taps_; ++tap) {
      OutputPixel at{tiling_.first_pixel(tile), line, column};  // counted on: a division takes longer than a piece
      for (int64_t i = 0; i < width; ++i) {
        place_vector(geometry, x, tap, at, static_cast<int32_t>(tap * width + i));
        at.pixel += tiling_.lanes;
        for (at.column += tiling_.lanes; at.column >= output_[1]; at.column -= output_[1]) ++at.line;
      }
    }
    first_extra_.push_back(static_cast<int64_t>(extras_.size()));
  }
}

// Plans one vector of output pixels under one tap. Neighbouring lanes form one piece where the pixels that they read
// are `step_` floats apart. The lanes of one output row are placed together: lane by lane, planning took as long as the
// convolution itself, which shows where the image's size changes from run to run.
void ConvPlan::place_vector(const ConvGeometry& geometry, const Image& x, int64_t tap, OutputPixel at,
                            int32_t row_vector) {
  const int64_t plane = geometry.kernel[0] * geometry.kernel[1];
  const int64_t back = tap / plane * geometry.dilation[2] - geometry.pad_before[2];
  const int64_t down = tap % plane / geometry.kernel[1] * geometry.dilation[0] - geometry.pad_before[0];
  const int64_t right = tap % geometry.kernel[1] * geometry.dilation[1] - geometry.pad_before[1];
  const int64_t stride = geometry.stride[1];
  const int64_t lanes = std::min(tiling_.lanes, tiling_.pixels - at.pixel);
  Piece last{0, 0, 0};
  bool first = true;
  const auto finish = [&](const Piece& piece) {
    if (first) {
      pieces_.push_back(piece);
    } else {
      extras_.push_back(ExtraPiece{piece, row_vector});
    }
    first = false;
  };
  for (int64_t row_lane = 0; row_lane < lanes;) {
    const int64_t in_row = std::min(lanes - row_lane, output_[1] - at.column);
    const int64_t plane_index = output_[2] == 1 ? 0 : at.line / output_[0];
    const int64_t slice = plane_index * geometry.stride[2] + back;
    const int64_t row = (at.line - plane_index * output_[0]) * geometry.stride[0] + down;
    const int64_t column = at.column * stride + right;
    if (slice >= 0 && slice < size_[2] && row >= 0 && row < size_[0]) {
      // the lanes whose column is inside the image
      int64_t lane = row_lane + (column < 0 ? (stride - 1 - column) / stride : 0);
      const int64_t beyond = size_[1] - column;
      const int64_t end = row_lane + (beyond <= 0 ? 0 : std::min(in_row, (beyond + stride - 1) / stride));
      while (lane < end) {
        const int64_t pixel = (slice * size_[0] + row) * size_[1] + column + (lane - row_lane) * stride;
        const Source source = source_of(x, pixel);
        const int64_t alike = step_ == stride ? std::min(end - lane, (source.pixels + stride - 1) / stride) : 1;
        const auto offset = static_cast<int32_t>(source.offset - lane * step_);
        if (last.mask != 0 && (offset != last.offset || source.pitch != last.pitch)) {
          finish(last);
          last.mask = 0;
        }
        const uint64_t bits = ((uint64_t{1} << (alike * step_)) - 1) & (step_ == 2 ? 0x55555555u : 0xffffffffu);
        last = Piece{offset, static_cast<int32_t>(source.pitch),
                     last.mask | static_cast<uint32_t>(bits << (lane * step_))};
        lane += alike;
      }
    }
    row_lane += in_row;
    at.column = 0;
    ++at.line;
  }
  if (first || last.mask != 0) finish(last);
}

void ConvPlan::gather(GatherKernel kernel, const float* x, int64_t tile, int64_t begin, int64_t end,
                      float* matrix) const {
  GatherArgs args = gathering(x, tile, matrix);
  args.channel_begin = begin;
  args.channel_end = end;
  kernel(args);
}

GatherArgs ConvPlan::gathering(const float* x, int64_t tile, float* matrix) const {
  const int64_t extra = first_extra_[tile];
  return {x,
          0,
          0,
          taps_ * tiling_.width(tile),
          pieces_.data() + taps_ * tiling_.first_vector(tile),
          extras_.data() + extra,
          first_extra_[tile + 1] - extra,
          step_,
          matrix};
}

}  // namespace nested_sparse
