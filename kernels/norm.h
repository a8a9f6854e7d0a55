// NestedNorm: a batch normalisation that no layer could take over, in one pass, with what follows it.
//
// Inputs: X, level (int64 scalar), scale and shift [L, C]. Output: Y of X's shape.
// Attributes: clip_min, clip_max, activation_function, x_tiled, y_tiled, spatial_dimensions as of a convolution.
//
// y = function(clip(x scale[level][channel] + shift[level][channel])). Planar tensors are [N, C, ...] of any rank
// from 2. With ONNX Runtime's Mul, Add and Relu, which go over the image three times, norms in front of convolutions
// took a third of DenseNet-121's time at 5.38 %.
#pragma once

#include "image.h"
#include "kernels.h"
#include "operator.h"

namespace nested_sparse {

class NestedNorm : public Operator {
 public:
  explicit NestedNorm(const ort::Attributes& attributes);
  void compute(const ort::Context& context) const override;

 private:
  // The scales and shifts of the run's level, one for each channel.
  struct Row {
    const float* scale;
    const float* shift;
    int64_t channels;
  };
  Row row(const ort::Context& context) const;
  void check_channels(const Row& row, int64_t channels) const;
  void run_planar(const ort::Context& context, const Row& row, const ort::Tensor<const float>& x) const;
  void run_images(const ort::Context& context, const Row& row) const;
  void run_tiles(const Row& row, const Image& x, const Image& y, int64_t image, Part tiles) const;
  void run_tile(const Row& row, const Image& x, const Image& y, int64_t image, int64_t tile, Part channels) const;

  Clip clip_;
  Outputs outputs_;
  int64_t spatial_;
  bool x_tiled_;
  bool y_tiled_;
  TileShape shape_;
};

}  // namespace nested_sparse
