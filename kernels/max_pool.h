// TiledMaxPool: MaxPool from one tiled image to another, for images without negative values, which the exporter sees to
// (it follows a ReLU): the zeros around the image are then as good as ONNX's minus infinity. It is here because a
// MaxPool of ONNX Runtime between two convolutions makes both planar: 3 % of ResNet-50 at 5.38 %.
//
// X and Y: tiled images. Attributes: kernel_shape, strides, pads, dilations, as of a convolution.
#pragma once

#include "conv_plan.h"
#include "kernels.h"
#include "operator.h"

namespace nested_sparse {

class TiledMaxPool : public Operator {
 public:
  explicit TiledMaxPool(const ort::Attributes& attributes);
  void compute(const ort::Context& context) const override;

 private:
  void run_tile(const ConvPlan& plan, const Image& x, const Image& y, int64_t image, int64_t tile) const;

  ConvGeometry geometry_;
  const GatherInfo& gather_;
  PlanCache plans_;
};

}  // namespace nested_sparse
