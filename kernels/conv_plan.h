// ConvPlan: how one convolution reads images of one size.
//
// A convolution is a product of the sparse weight and a matrix with a row for every column of the weight (an input
// channel and a tap of the window). The row holds, for each output pixel, the input pixel under that tap. The matrix is
// gathered (gather/gather.h) for one tile of output pixels at a time, into memory that stays in L2 while every row
// group reads it. A 1 x 1 kernel with stride 1 and no padding over a tiled image needs no gathering: each tile of the
// image is already the matrix.
//
// Strips make gathering cheaper. Taps in one column of the window see the same pixels, whole rows of outputs apart:
// with stride s, tap row t + s sees for one output what tap row t sees for the output below it. So such taps share one
// row of the matrix, a strip that covers the tile's outputs and those of the rows above or below, and each reads it
// from a place of its own. A strip serves several tiles that follow one another (a unit), which halves the work again.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "gather/gather.h"
#include "image.h"
#include "scratch.h"
#include "spmm/spmm.h"

namespace nested_sparse {

struct ConvGeometry {
  int64_t kernel[2];  // rows and columns of the window
  int64_t stride[2];
  int64_t pad_before[2];  // top, left
  int64_t pad_after[2];   // bottom, right
  int64_t dilation[2];
};

// From the attributes kernel_shape, strides, pads and dilations. Throws ort::Error where one is out of range.
ConvGeometry read_geometry(const ort::Attributes& attributes);
// Rows (axis 0) or columns (axis 1) of the output, from those of the input. Throws ort::Error where the window does not
// fit into the padded image.
int64_t output_size(const ConvGeometry& geometry, int axis, int64_t size);

struct StripUse {
  int64_t channels = 0;  // whose matrix is gathered at once; 0: no strips
  bool units = false;    // whether strips may serve several tiles
};

class ConvPlan {
 public:
  // The plan for images of the size and layout of `x`. shape: of the output's tiles. strips: how they may be used.
  // Throws ort::Error where the window does not fit into the padded image, or the image is too large.
  ConvPlan(const ConvGeometry& geometry, const Image& x, TileShape shape, StripUse strips = {});

  bool matches(const Image& x) const {
    return x.size.height == size_[0] && x.size.width == size_[1] && x.size.channels == channels_;
  }
  int64_t output_height() const { return output_[0]; }
  int64_t output_width() const { return output_[1]; }

  int64_t taps() const { return taps_; }

  // Whether each tile of the image is already the matrix, so that nothing has to be gathered.
  bool direct() const { return direct_; }
  // The unit of a tile: tiles of one unit have one matrix. Without strips each tile is a unit.
  int64_t unit_of(int64_t tile) const { return tile / unit_tiles_; }
  // How the columns of a unit's matrix lie, where they are strips, and where in it the pixels of a tile begin.
  StripRows strips() const { return strips_; }
  int64_t first_float(int64_t tile) const {
    return tiling_.first_pixel(tile) - tiling_.first_pixel(unit_of(tile) * unit_tiles_);
  }
  // Floats that the matrix of any unit takes at most for `channels` channels.
  int64_t matrix_floats(int64_t channels) const { return channels * channel_floats_; }
  // Writes the matrix of channels [begin, end) of the image at `x` for one unit.
  void gather(GatherKernel kernel, const float* x, int64_t unit, int64_t begin, int64_t end, float* matrix) const;
  // Arguments for a kernel that gathers one unit from the image at `x`. The caller fills in the channels.
  GatherArgs gathering(const float* x, int64_t unit, float* matrix) const;

 private:
  // A row of the matrix: the pixels that one tap sees for the outputs of a unit, and of some rows below it.
  struct Strip {
    int64_t row, column;  // of the pixel for output (0, 0)
    int64_t below;        // rows of outputs
  };
  void share_strips(const ConvGeometry& geometry, StripUse use);
  int64_t unit_floats(int64_t unit_tiles) const;
  int64_t shared_vectors(const std::vector<Strip>& strips, int64_t unit_tiles) const;
  void place_pieces(const ConvGeometry& geometry, const Image& x);
  void place_vector(const ConvGeometry& geometry, const Image& x, const Strip& strip, int64_t first_pixel,
                    int32_t row_vector);

  int64_t size_[2];
  int64_t channels_;  // of the image; the distance between tiles of a tiled image depends on it
  int64_t output_[2];
  Tiling tiling_;  // of the output
  int64_t taps_;
  int64_t unit_tiles_ = 1;
  int64_t channel_floats_ = 0;  // of the largest unit
  int32_t step_;
  bool direct_;
  StripRows strips_;
  std::vector<Strip> rows_;  // of the matrix, for one channel
  std::vector<int32_t> tap_floats_;
  std::vector<Piece> pieces_;            // unit after unit, in each the vectors of every row
  std::vector<ExtraPiece> extras_;       // unit after unit
  std::vector<int64_t> first_piece_{0};  // of each unit
  std::vector<int64_t> first_extra_{0};  // of each unit
};

// The plan for the size of image that an operator read last. Thread-safe.
template <class Plan>
class PlanCache {
 public:
  // Plan(geometry, x, rest...), made anew only where the last one does not match x.
  template <class X, class... Rest>
  std::shared_ptr<const Plan> plan_for(const ConvGeometry& geometry, const X& x, const Rest&... rest) const {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (plan_ == nullptr || !plan_->matches(x)) {
      plan_ = std::make_shared<const Plan>(geometry, x, rest...);
      count_scratch_allocation();
    }
    return plan_;
  }

 private:
  mutable std::mutex mutex_;
  mutable std::shared_ptr<const Plan> plan_;
};

}  // namespace nested_sparse
