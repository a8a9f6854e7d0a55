// ConvPlan: how one convolution reads and writes images of one size.
//
// A convolution is the sparse weight times the flattened, padded image (spmm.h). The image is copied into planes, one
// per channel and phase: phase (py, px) holds the padded pixels (i * sy + py, j * sx + px). Tap (ky, kx) then reads the
// phase ((ky * dy) % sy, (kx * dx) % sx) at a fixed offset, whatever the output pixel, and output pixel (oy, ox) is
// number oy * pitch + ox of the product; those with ox >= the output's width are computed and dropped. Rows share their
// zeros: what pads a row on the right is what pads the next one on the left.
//
// A 1 x 1 kernel with stride 1 and no padding needs no copy: the image is the plane.
#pragma once

#include <cstdint>
#include <vector>

#include "spmm/spmm.h"

namespace nested_sparse {

struct ConvGeometry {
  int64_t kernel[2];  // rows, columns of the window
  int64_t stride[2];
  int64_t pad_before[2];  // top, left
  int64_t pad_after[2];   // bottom, right
  int64_t dilation[2];
};

class ConvPlan {
 public:
  // For images of `channels` x `height` x `width` and a kernel of `lanes` pixels a vector. Throws ort::Error where the
  // window does not fit the padded image, or the image is too large (2^31 floats).
  ConvPlan(const ConvGeometry& geometry, int64_t channels, int64_t height, int64_t width, int32_t lanes);

  bool matches(int64_t height, int64_t width) const { return height == size_[0] && width == size_[1]; }
  int64_t output_height() const { return output_[0]; }
  int64_t output_width() const { return output_[1]; }
  int64_t pixels() const { return pixels_; }
  const int32_t* offset() const { return offset_.data(); }
  const PixelPlace* places() const { return places_.empty() ? nullptr : places_.data(); }

  bool copies() const { return copies_; }
  int64_t scratch_floats() const { return scratch_floats_; }
  // Fills the planes of channels [begin, end) of `image` in `planes`.
  void copy_channels(const float* image, float* planes, int64_t begin, int64_t end) const;
  // Zeros what vectors read beyond the last plane.
  void clear_slack(float* planes) const;

 private:
  // One used phase along one axis: index i holds padded position i * stride + phase; data for i in [lead, end).
  struct Phase {
    int64_t phase, lead, end;
  };
  void place_axis(const ConvGeometry& geometry, int axis, int64_t size);
  void place_planes(int64_t channels);
  void place_offsets(const ConvGeometry& geometry, int64_t channels);
  void place_pixels(int32_t lanes);
  int64_t phase_index(int axis, int64_t phase) const;
  void copy_plane(const float* image, float* plane, const Phase& rows, const Phase& columns) const;

  int64_t size_[2];
  int64_t output_[2];
  int64_t extent_[2];  // rows and columns that taps reach
  int64_t stride_[2];
  int64_t pad_[2];
  std::vector<Phase> phases_[2];
  bool copies_ = true;
  int64_t pitch_ = 0;
  int64_t plane_ = 0;
  int64_t pixels_ = 0;
  int64_t scratch_floats_ = 0;
  std::vector<int32_t> offset_;
  std::vector<PixelPlace> places_;
};

}  // namespace nested_sparse
