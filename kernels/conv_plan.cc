#include "conv_plan.h"

#include <algorithm>
#include <limits>
#include <string>

namespace nested_sparse {
namespace {

constexpr int64_t kMaxFloats = std::numeric_limits<int32_t>::max();
constexpr int64_t kMaxGeometry = 1 << 20;
constexpr int64_t kMaxPieces = 1 << 26;  // 7 x 7 taps over 4096 x 4096 pixels in vectors of 16 have 49 << 20

void read_pair(const ort::Attributes& attributes, const char* name, int64_t least, int64_t (&pair)[2]) {
  const std::vector<int64_t> values = attributes.integers(name, 2);
  for (int axis = 0; axis < 2; ++axis) {
    if (values[axis] < least || values[axis] > kMaxGeometry) {
      throw ort::Error("attribute '" + std::string(name) + "': expected values of " + std::to_string(least) +
                       " or more, got " + std::to_string(values[axis]));
    }
    pair[axis] = values[axis];
  }
}

// Where an image, planar or tiled, holds one pixel.
struct Source {
  int64_t offset;  // floats before the pixel of channel 0
  int64_t pitch;   // floats from one channel to the next there
};

Source source_of(const Image& x, int64_t pixel) {
  if (!x.tiled) return Source{pixel, x.tiling.pixels};
  const int64_t tile = x.tiling.tile_of(pixel);
  return Source{x.tiling.offset(x.size.channels, tile) + pixel - x.tiling.first_pixel(tile), x.tiling.pitch(tile)};
}

}  // namespace

ConvGeometry read_geometry(const ort::Attributes& attributes) {
  ConvGeometry geometry{};
  read_pair(attributes, "kernel_shape", 1, geometry.kernel);
  read_pair(attributes, "strides", 1, geometry.stride);
  read_pair(attributes, "dilations", 1, geometry.dilation);
  const std::vector<int64_t> pads = attributes.integers("pads", 4);
  for (int axis = 0; axis < 2; ++axis) {
    geometry.pad_before[axis] = pads[axis];
    geometry.pad_after[axis] = pads[2 + axis];
  }
  for (int64_t pad : pads) {
    if (pad < 0 || pad > kMaxGeometry) {
      throw ort::Error("attribute 'pads': expected values of 0 or more, got " + std::to_string(pad));
    }
  }
  return geometry;
}

int64_t output_size(const ConvGeometry& geometry, int axis, int64_t size) {
  const int64_t padded = size + geometry.pad_before[axis] + geometry.pad_after[axis];
  const int64_t reach = (geometry.kernel[axis] - 1) * geometry.dilation[axis] + 1;
  if (reach > padded) {
    throw ort::Error("the window spans " + std::to_string(reach) + " pixels, the padded image has " +
                     std::to_string(padded) + (axis == 0 ? " rows" : " columns"));
  }
  return (padded - reach) / geometry.stride[axis] + 1;
}

ConvPlan::ConvPlan(const ConvGeometry& geometry, const Image& x, TileShape shape)
    : size_{x.size.height, x.size.width},
      channels_(x.size.channels),
      taps_(geometry.kernel[0] * geometry.kernel[1]),
      step_(geometry.stride[1] == 2 ? 2 : 1) {
  if (x.image_floats() > kMaxFloats) throw ort::Error("the image has more than 2^31 values");
  for (int axis = 0; axis < 2; ++axis) output_[axis] = output_size(geometry, axis, size_[axis]);
  if (output_[0] > kMaxFloats / output_[1]) throw ort::Error("the output image has more than 2^31 pixels");
  tiling_ = Tiling(output_[0] * output_[1], shape.lanes, shape.vectors);
  const bool unpadded =
      geometry.pad_before[0] + geometry.pad_before[1] + geometry.pad_after[0] + geometry.pad_after[1] == 0;
  direct_ = x.tiled && unpadded && taps_ * geometry.stride[0] * geometry.stride[1] == 1;
  if (!direct_) place_pieces(geometry, x);
}

void ConvPlan::place_pieces(const ConvGeometry& geometry, const Image& x) {
  // Large padding makes no file larger, but the plan holds a piece for every tap of every vector of the output.
  if (tiling_.vectors > kMaxPieces / taps_) throw ort::Error("the padded image and the window are too large together");
  pieces_.reserve(static_cast<size_t>(taps_ * tiling_.vectors));
  for (int64_t tile = 0; tile < tiling_.tiles; ++tile) {
    widest_ = std::max(widest_, tiling_.pitch(tile));
    for (int64_t tap = 0; tap < taps_; ++tap) {
      for (int64_t i = 0; i < tiling_.width(tile); ++i) {
        const auto row_vector = static_cast<int32_t>(tap * tiling_.width(tile) + i);
        place_vector(geometry, x, tap, tiling_.first_vector(tile) + i, row_vector);
      }
    }
    first_extra_.push_back(static_cast<int64_t>(extras_.size()));
  }
}

// Plans one vector of output pixels under one tap. Neighbouring lanes form one piece where the pixels that they read
// are `step_` floats apart.
void ConvPlan::place_vector(const ConvGeometry& geometry, const Image& x, int64_t tap, int64_t vector,
                            int32_t row_vector) {
  const int64_t down = tap / geometry.kernel[1] * geometry.dilation[0] - geometry.pad_before[0];
  const int64_t right = tap % geometry.kernel[1] * geometry.dilation[1] - geometry.pad_before[1];
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
  for (int64_t lane = 0; lane < tiling_.lanes; ++lane) {
    const int64_t pixel = vector * tiling_.lanes + lane;
    const int64_t row = pixel / output_[1] * geometry.stride[0] + down;
    const int64_t column = pixel % output_[1] * geometry.stride[1] + right;
    const bool inside = pixel < tiling_.pixels && row >= 0 && row < size_[0] && column >= 0 && column < size_[1];
    if (!inside) continue;
    const Source source = source_of(x, row * size_[1] + column);
    const auto offset = static_cast<int32_t>(source.offset - lane * step_);
    if (last.mask != 0 && (offset != last.offset || source.pitch != last.pitch)) {
      finish(last);
      last.mask = 0;
    }
    last = Piece{offset, static_cast<int32_t>(source.pitch), last.mask | uint32_t{1} << (lane * step_)};
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
