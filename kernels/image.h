// Image: the activations a convolution reads, adds or writes, planar or tiled.
//
// Planar is ONNX's [N, C, H, W], or [N, C, W] for one spatial dimension. Tiled (tiling.h) is private to our operators:
// a tensor of one dimension that begins with a header, which says what it holds. The exporter marks the tensors that
// nothing but our convolutions reads.
#pragma once

#include <string>

#include "ort_context.h"
#include "tiling.h"

namespace nested_sparse {

// Vectors of an image's tiles, for the instruction set in use.
struct TileShape {
  int32_t lanes;
  int32_t vectors;
};

struct ImageSize {
  int64_t batch, channels, height, width;
  bool operator==(const ImageSize& other) const {
    return batch == other.batch && channels == other.channels && height == other.height && width == other.width;
  }
  std::string text() const;
};

struct Image {
  // The image in a tensor that a graph input or another operator gave. Throws ort::Error where it is not one.
  static Image read(const ort::Tensor<const float>& tensor, bool tiled, TileShape shape);
  // Memory for the operator's output; `spatial` is 1 or 2 dimensions.
  static Image write(const ort::Context& context, const ImageSize& size, bool tiled, TileShape shape, int64_t spatial);

  // Floats from one image of the batch to the next.
  int64_t image_floats() const { return tiled ? tiling.floats(size.channels) : size.channels * tiling.pixels; }
  // First float of a tile of image n, and floats from one channel to the next.
  int64_t offset(int64_t n, int64_t tile) const {
    return n * image_floats() + (tiled ? tiling.offset(size.channels, tile) : tiling.first_pixel(tile));
  }
  int64_t pitch(int64_t tile) const { return tiled ? tiling.pitch(tile) : tiling.pixels; }

  const float* data = nullptr;  // what `write` gave is the operator's to write
  ImageSize size{};
  Tiling tiling;
  bool tiled = false;
};

}  // namespace nested_sparse
