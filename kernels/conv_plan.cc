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

ConvPlan::ConvPlan(const ConvGeometry& geometry, const Image& x, TileShape shape, StripUse use)
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
  if (direct_) return;
  // Large padding makes no file larger, but the plan holds a piece for every tap of every vector of the output.
  if (tiling_.vectors > kMaxPieces / taps_) throw ort::Error("the padded image and the window are too large together");
  for (int64_t tap = 0; tap < taps_; ++tap) {
    rows_.push_back(Strip{tap / geometry.kernel[1] * geometry.dilation[0] - geometry.pad_before[0],
                          tap % geometry.kernel[1] * geometry.dilation[1] - geometry.pad_before[1], 0});
  }
  share_strips(geometry, use);
  place_pieces(geometry, x);
}

// Makes strips of the taps' rows where that makes gathering cheaper by a tenth or more.
void ConvPlan::share_strips(const ConvGeometry& geometry, StripUse use) {
  constexpr int64_t kMaxTaps = 1024;      // to which tap_floats stays small, and the search below short
  constexpr int64_t kMaxChannels = 4095;  // StripRows: columns * taps is below 2^32
  if (use.channels == 0 || geometry.kernel[0] == 1 || taps_ > kMaxTaps || channels_ > kMaxChannels) return;
  std::vector<Strip> shared;
  std::vector<int64_t> strip_of(static_cast<size_t>(taps_));  // of each tap
  for (int64_t tap = 0; tap < taps_; ++tap) {
    const auto shares = [&](const Strip& strip) {
      return strip.column == rows_[tap].column && (rows_[tap].row - strip.row) % geometry.stride[0] == 0;
    };
    const auto found = std::find_if(shared.begin(), shared.end(), shares);
    strip_of[tap] = found - shared.begin();
    if (found == shared.end()) {
      shared.push_back(rows_[tap]);
    } else {
      found->below = (rows_[tap].row - found->row) / geometry.stride[0];
    }
  }
  constexpr int64_t kUnits[] = {1, 2, 3, 4, 6, 8};
  constexpr int64_t kUnitBytes = 512 << 10;  // of the matrix of a unit of several tiles, so that it stays in L2
  double best = 0.9 * static_cast<double>(taps_ * tiling_.vectors);
  for (const int64_t tiles : kUnits) {
    const int64_t vectors = shared_vectors(shared, tiles);
    const bool fits = use.channels * vectors * tiling_.lanes * int64_t{sizeof(float)} <= kUnitBytes;
    if (tiles > 1 && !(fits && use.units && tiles <= tiling_.tiles)) continue;
    const double all = static_cast<double>(vectors * ((tiling_.tiles + tiles - 1) / tiles));
    if (all >= best) continue;
    best = all;
    unit_tiles_ = tiles;
    strips_.taps = static_cast<uint32_t>(taps_);
  }
  if (strips_.taps == 0) return;
  for (int64_t tap = 0; tap < taps_; ++tap) {
    const auto strip = shared.begin() + strip_of[tap];
    const int64_t before = shared_vectors({shared.begin(), strip}, unit_tiles_) * tiling_.lanes;
    const int64_t below = (rows_[tap].row - strip->row) / geometry.stride[0] * output_[1];
    tap_floats_.push_back(static_cast<int32_t>(before + below));
  }
  rows_ = shared;
  strips_.channel_floats = shared_vectors(shared, unit_tiles_) * tiling_.lanes;
  strips_.tap_floats = tap_floats_.data();
}

// Floats of the pixels of the largest unit.
int64_t ConvPlan::unit_floats(int64_t unit_tiles) const {
  int64_t most = 0;
  for (int64_t first = 0; first < tiling_.tiles; first += unit_tiles) {
    const int64_t end = std::min(first + unit_tiles, tiling_.tiles);
    most = std::max(most, tiling_.first_pixel(end) - tiling_.first_pixel(first));
  }
  return most;
}

// Vectors of a channel whose strips are as long as the largest unit needs.
int64_t ConvPlan::shared_vectors(const std::vector<Strip>& strips, int64_t unit_tiles) const {
  const int64_t pixels = unit_floats(unit_tiles);
  int64_t vectors = 0;
  for (const Strip& strip : strips) {
    vectors += (pixels + strip.below * output_[1] + tiling_.lanes - 1) / tiling_.lanes;
  }
  return vectors;
}

void ConvPlan::place_pieces(const ConvGeometry& geometry, const Image& x) {
  const int64_t longest = unit_floats(unit_tiles_);
  for (int64_t first = 0; first < tiling_.tiles; first += unit_tiles_) {
    const int64_t floats = strips_.taps > 0 ? longest : tiling_.pitch(first);
    int32_t row_vector = 0;
    for (const Strip& row : rows_) {
      for (int64_t at = 0; at < floats + row.below * output_[1]; at += tiling_.lanes, ++row_vector) {
        place_vector(geometry, x, row, tiling_.first_pixel(first) + at, row_vector);
      }
    }
    channel_floats_ = std::max(channel_floats_, row_vector * tiling_.lanes);
    first_piece_.push_back(static_cast<int64_t>(pieces_.size()));
    first_extra_.push_back(static_cast<int64_t>(extras_.size()));
  }
}

// Plans one vector of a row of the matrix. Neighbouring lanes form one piece where the pixels that they read
// are `step_` floats apart.
void ConvPlan::place_vector(const ConvGeometry& geometry, const Image& x, const Strip& strip, int64_t first_pixel,
                            int32_t row_vector) {
  const int64_t end = tiling_.pixels + strip.below * output_[1];
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
    const int64_t pixel = first_pixel + lane;
    const int64_t row = pixel / output_[1] * geometry.stride[0] + strip.row;
    const int64_t column = pixel % output_[1] * geometry.stride[1] + strip.column;
    const bool inside = pixel < end && row >= 0 && row < size_[0] && column >= 0 && column < size_[1];
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

void ConvPlan::gather(GatherKernel kernel, const float* x, int64_t unit, int64_t begin, int64_t end,
                      float* matrix) const {
  GatherArgs args = gathering(x, unit, matrix);
  args.channel_begin = begin;
  args.channel_end = end;
  kernel(args);
}

GatherArgs ConvPlan::gathering(const float* x, int64_t unit, float* matrix) const {
  const int64_t piece = first_piece_[unit];
  const int64_t extra = first_extra_[unit];
  return {x,
          0,
          0,
          first_piece_[unit + 1] - piece,
          pieces_.data() + piece,
          extras_.data() + extra,
          first_extra_[unit + 1] - extra,
          step_,
          matrix};
}

}  // namespace nested_sparse
