// ConvPlan: how one convolution reads images of one size.
//
// A convolution is a product of the sparse weight and a matrix with a row for every column of the weight (an input
// channel and a tap of the window). The row holds, for each output pixel, the input pixel under that tap. The matrix is
// gathered (gather/gather.h) for one tile of output pixels at a time, into memory that stays in L2 while every row
// group reads it. A 1 x 1 kernel with stride 1 and no padding over a tiled image needs no gathering: each tile of the
// image is already the matrix.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <memory>
#include <mutex>
#include <vector>

#include "gather/gather.h"
#include "image.h"
#include "scratch.h"

namespace nested_sparse {

// A window. Each array has its rows, its columns, and its slices in depth; one slice where there are two dimensions.
struct ConvGeometry {
  int64_t taps() const { return kernel[0] * kernel[1] * kernel[2]; }

  int64_t kernel[3];
  int64_t stride[3];
  int64_t pad_before[3];  // top, left, front
  int64_t pad_after[3];   // bottom, right, back
  int64_t dilation[3];
};

// Reads an attribute that has a value for each of the `spatial` dimensions, but two where that is 1, into rows, columns
// and slices; slices are `of_slice` where there are none. With several `sizes` it has as many values for each of them.
// Throws ort::Error where a value is below `least`, or huge.
void read_sizes(const ort::Attributes& attributes, const char* name, int64_t spatial, int64_t least, int64_t of_slice,
                std::initializer_list<int64_t*> sizes);
// From the attributes kernel_shape, strides, pads and dilations, which have a value for each of the `spatial`
// dimensions, but two where that is 1. Throws ort::Error where one is out of range.
ConvGeometry read_geometry(const ort::Attributes& attributes, int64_t spatial = 2);
// The attribute spatial_dimensions, 1 to `most`. Throws ort::Error where it is out of range.
int64_t read_spatial(const ort::Attributes& attributes, int64_t most);
// Rows (axis 0), columns (axis 1) or slices (axis 2) of the output, from those of the input. Throws ort::Error where
// the window does not fit into the padded image.
int64_t output_size(const ConvGeometry& geometry, int axis, int64_t size);

// Where an image, planar or tiled, holds one pixel.
struct Source {
  int64_t offset;  // floats before the pixel of channel 0
  int64_t pitch;   // floats from one channel to the next there
  int64_t pixels;  // that follow one another from there on, the pixel itself included
};
Source source_of(const Image& x, int64_t pixel);
// Throws ort::Error where a plan for all vectors of an output by so many taps would be too large.
void check_pieces(const Tiling& tiling, int64_t taps);

class ConvPlan {
 public:
  // The plan for images of the size and layout of `x`. shape: of the output's tiles. Throws ort::Error where the window
  // does not fit into the padded image, or the image is too large.
  ConvPlan(const ConvGeometry& geometry, const Image& x, TileShape shape);

  bool matches(const Image& x) const {
    return x.size.height == size_[0] && x.size.width == size_[1] && x.size.depth == size_[2] &&
           x.size.channels == channels_;
  }
  // The output for `batch` images, with `channels` channels.
  ImageSize output(int64_t batch, int64_t channels) const {
    return ImageSize{batch, channels, output_[0], output_[1], output_[2]};
  }

  int64_t taps() const { return taps_; }

  size_t nbytes() const { return pieces_.size() * sizeof(Piece) + extras_.size() * sizeof(ExtraPiece); }

  // Whether each tile of the image is already the matrix, so that nothing has to be gathered.
  bool direct() const { return direct_; }
  // Floats that the matrix of any tile takes at most for `channels` channels.
  int64_t matrix_floats(int64_t channels) const { return channels * taps_ * widest_; }
  // Writes the matrix of channels [begin, end) of the image at `x` for one tile of output pixels.
  void gather(GatherKernel kernel, const float* x, int64_t tile, int64_t begin, int64_t end, float* matrix) const;
  // Arguments for a kernel that gathers one tile from the image at `x`. The caller fills in the channels.
  GatherArgs gathering(const float* x, int64_t tile, float* matrix) const;

 private:
  void place_pieces(const ConvGeometry& geometry, const Image& x);
  // An output pixel, and where it lies; lines are counted on from slice to slice.
  struct OutputPixel {
    int64_t pixel, line, column;
  };
  void place_vector(const ConvGeometry& geometry, const Image& x, int64_t tap, OutputPixel at, int32_t row_vector);

  int64_t size_[3];
  int64_t channels_;  // of the image; the distance between tiles of a tiled image depends on it
  int64_t output_[3];
  Tiling tiling_;  // of the output
  int64_t taps_;
  int64_t widest_ = 0;  // pitch of the widest tile
  int32_t step_;
  bool direct_;
  std::vector<Piece> pieces_;            // tile after tile: [taps][width]
  std::vector<ExtraPiece> extras_;       // tile after tile
  std::vector<int64_t> first_extra_{0};  // of each tile
};

// The plans for the sizes of image that an operator read last. Thread-safe.
template <class Plan>
class PlanCache {
 public:
  // Plan(geometry, x, rest...), made anew only where none of the last ones matches x.
  template <class Geometry, class X, class... Rest>
  std::shared_ptr<const Plan> plan_for(const Geometry& geometry, const X& x, const Rest&... rest) const {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (const auto& plan : plans_) {
      if (plan->matches(x)) return plan;
    }
    auto plan = std::make_shared<const Plan>(geometry, x, rest...);
    count_scratch_allocation();
    plans_.push_back(plan);
    nbytes_ += plan->nbytes();
    while (plans_.size() > 1 && (plans_.size() > kMostPlans || nbytes_ > kMostBytes)) {
      nbytes_ -= plans_.front()->nbytes();
      plans_.erase(plans_.begin());
    }
    return plan;
  }

 private:
  // Where sequences or images of several sizes take turns, to plan each anew takes up to as long as a sparse
  // convolution.
  static constexpr size_t kMostPlans = 16;
  static constexpr size_t kMostBytes = 1 << 20;

  mutable std::mutex mutex_;
  mutable std::vector<std::shared_ptr<const Plan>> plans_;
  mutable size_t nbytes_ = 0;
};

}  // namespace nested_sparse
