// BytePlan: how a window reads quantized images of one size, and where the pixels of its output lie.
//
// A convolution is a product of the sparse weight and a matrix with a row for each column of the weight, an input
// channel and a tap of the window (conv_plan.h). Where every tap finds the pixels of a tile in one stretch of bytes,
// the kernel reads them in place:
//
// - from tiles, where the window is one pixel and the output has the pitch of the input;
// - from planes, where the window's stride is 1, the output has the pitch of the input, and the taps stay within the
//   border and the gap, which hold the zero point. Between the slices of a volume there is no border.
//
// Otherwise the matrix is gathered (gather8/gather8.h) for one tile of output positions at a time.
#pragma once

#include <vector>

#include "../conv_plan.h"
#include "gather8/gather8.h"
#include "image.h"

namespace nested_sparse {

class BytePlan {
 public:
  // channels: input channels whose columns a row of the weight has. Throws ort::Error where the window does not fit
  // into the padded image, or the image is too large.
  BytePlan(const ConvGeometry& geometry, const QuantizedImage& x, ImageLayout y_layout, int64_t channels);

  bool matches(const QuantizedImage& x) const {
    return x.size.height == x_.size.height && x.size.width == x_.size.width && x.size.channels == x_.size.channels &&
           x.size.depth == x_.size.depth && x.layout == x_.layout;
  }
  // The output for `batch` images, with `channels` channels.
  ImageSize output(int64_t batch, int64_t channels) const {
    return ImageSize{batch, channels, output_[0], output_[1], output_[2]};
  }
  int64_t taps() const { return taps_; }
  size_t nbytes() const { return runs_.size() * sizeof(ByteRun) + offsets_.size() * sizeof(int32_t); }
  // Bit i is set where position i of an output tile is a pixel.
  uint64_t keep(int64_t tile) const { return keep_[static_cast<size_t>(tile)]; }

  // Whether the kernel reads the image in place.
  bool direct() const { return direct_; }
  // Bytes from a tile of the image to each column, where it is read in place from planes; null for tiles and matrices,
  // whose columns lie 64 bytes apart.
  const int32_t* offsets() const { return offsets_.empty() ? nullptr : offsets_.data(); }

  // Bytes of the matrix of so many channels.
  int64_t matrix_bytes(int64_t channels) const { return channels * taps_ * kTileBytes; }
  // Writes the matrix of channels [begin, end) of image n for one tile of output positions.
  void gather(Gather8Kernel kernel, const QuantizedImage& x, int64_t n, int64_t tile, int64_t begin, int64_t end,
              uint8_t* matrix) const;

 private:
  // The place of a tap relative to the pixel of its output, at stride 1: rows down, columns right, slices behind.
  struct Tap {
    int64_t down, right, behind;
  };
  Tap tap_of(const ConvGeometry& geometry, int64_t tap) const;
  bool reads_tiles(const ConvGeometry& geometry, const QuantizedImage& y) const;
  bool reads_planes(const ConvGeometry& geometry, const QuantizedImage& y) const;
  void place_columns(const ConvGeometry& geometry, int64_t channels);
  void place_runs(const ConvGeometry& geometry, const QuantizedImage& y);
  void place_tap(const ConvGeometry& geometry, const QuantizedImage& y, int64_t tile, int64_t tap);
  int64_t source_row(const ConvGeometry& geometry, Tap tap, int64_t row) const;
  void place_row(int64_t source_row, Tap tap, int64_t column, int64_t end, int64_t to);

  QuantizedImage x_;  // size and layout
  int64_t output_[3];
  int64_t taps_;
  int64_t step_;
  bool direct_;
  std::vector<uint64_t> keep_;
  std::vector<int32_t> offsets_;
  std::vector<ByteRun> runs_;   // tile after tile, tap after tap
  std::vector<int32_t> first_;  // [tiles][taps], and the end
};

}  // namespace nested_sparse
