// Image: a batch of images that a convolution reads as input or residual, or writes as output; planar or tiled.
//
// A planar image is ONNX's [N, C, H, W], [N, C, W] for one spatial dimension, or [N, C, D, H, W] for three: an image of
// D slices, whose rows follow one another. A tiled image (tiling.h) is private to
// our operators: a tensor of one dimension, which begins with a header that holds the sizes. The exporter marks the
// tensors that only our operators read; only those are tiled.
#pragma once

#include <string>

#include "ort_context.h"
#include "tiling.h"

namespace nested_sparse {

// The size of an image's tiles, which the instruction set in use decides.
struct TileShape {
  int32_t lanes;    // pixels of a vector
  int32_t vectors;  // of a tile at most
};

struct ImageSize {
  int64_t pixels() const { return depth * height * width; }
  bool operator==(const ImageSize& other) const {
    return batch == other.batch && channels == other.channels && height == other.height && width == other.width &&
           depth == other.depth;
  }
  std::string text() const;

  int64_t batch, channels, height, width;
  int64_t depth = 1;
};

struct Image {
  // The image in an input tensor of an operator. Throws ort::Error where the tensor holds none.
  static Image read(const ort::Tensor<const float>& tensor, bool tiled, TileShape shape);
  // An image in new memory for the operator's output. spatial: spatial dimensions, 1 to 3.
  static Image write(const ort::Context& context, const ImageSize& size, bool tiled, TileShape shape, int64_t spatial);

  // Floats from one image of the batch to the next.
  int64_t image_floats() const { return tiled ? tiling.floats(size.channels) : size.channels * tiling.pixels; }
  // Index of the first float of a tile of image n.
  int64_t offset(int64_t n, int64_t tile) const {
    return n * image_floats() + (tiled ? tiling.offset(size.channels, tile) : tiling.first_pixel(tile));
  }
  // Floats from one channel of the tile to the next.
  int64_t pitch(int64_t tile) const { return tiled ? tiling.pitch(tile) : tiling.pixels; }

  const float* data = nullptr;  // an operator may write to it where `write` made the image
  ImageSize size{};
  Tiling tiling;
  bool tiled = false;
};

}  // namespace nested_sparse
