// Phases: how a transposed convolution reads images of one size.
//
// Output position p takes input i by tap k where p + pad = stride · i + dilation · k. All positions p = stride · q + r
// of one remainder r, a phase, read the same taps, each at a fixed offset from q. In two dimensions there is a phase
// for every pair of remainders; the last dimension's changes fastest. All phases have pixels q on one grid, cut into
// tiles as an image is; where the output's size is no multiple of the stride, some phases have pixels outside of the
// output.
#pragma once

#include <memory>
#include <vector>

#include "conv_plan.h"

namespace nested_sparse {

// A window and the phases that it makes, whatever the image.
class Window {
 public:
  // Reads output_padding beside the window's attributes. Throws ort::Error where one is out of range.
  Window(const ort::Attributes& attributes, const ConvGeometry& geometry, int64_t spatial);

  int64_t phases() const { return residues(0) * residues(1) * residues(2); }
  // Remainders along rows (axis 0), columns (1), slices (2): the stride.
  int64_t residues(int axis) const { return geometry_.stride[axis]; }
  int64_t residue(int axis, int64_t phase) const;
  int64_t taps(int64_t phase) const;
  int64_t taps() const;  // of all phases
  // The first phase that reads what `phase` reads.
  int64_t same_as(int64_t phase) const;
  // Rows, columns or slices of the output for those of the input. Throws ort::Error where there are none.
  int64_t output_size(int axis, int64_t size) const;
  // The convolution that a phase is, which has `size` rows, columns and slices as input and `grid` as output.
  ConvGeometry convolution(int64_t phase, const int64_t (&size)[3], const int64_t (&grid)[3]) const;

 private:
  struct Residue {
    int64_t taps;   // of the axis
    int64_t first;  // offset of the tap that reads first
    int64_t same;   // the first remainder with equal taps and offset
  };
  std::vector<Residue> residues_of(int axis) const;

  ConvGeometry geometry_;
  int64_t output_padding_[3];
  int64_t step_[3];  // from one tap of a phase to the next
  std::vector<Residue> residues_[3];
};

class Phases {
 public:
  // shape: of the tiles. Throws ort::Error where there is no output, or the image is too large.
  Phases(const Window& window, const Image& x, TileShape shape);

  bool matches(const Image& x) const {
    return x.size.height == size_[0] && x.size.width == size_[1] && x.size.depth == size_[2] &&
           x.size.channels == channels_;
  }
  ImageSize output(int64_t batch, int64_t channels) const {
    return ImageSize{batch, channels, output_[0], output_[1], output_[2]};
  }
  size_t nbytes() const;
  const Tiling& tiling() const { return tiling_; }
  // Columns of the grid.
  int64_t grid_width() const { return grid_[1]; }
  int64_t grid_height() const { return grid_[0]; }
  // Null where the phase has no taps.
  const ConvPlan* plan(int64_t phase) const { return plans_[phase].get(); }

 private:
  int64_t size_[3];
  int64_t channels_;
  int64_t output_[3];
  int64_t grid_[3];
  Tiling tiling_;
  std::vector<std::shared_ptr<const ConvPlan>> plans_;
};

}  // namespace nested_sparse
