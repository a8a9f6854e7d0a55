// TiledMaxPool: MaxPool from one tiled image to another.
//
// X and Y: tiled images. Attributes: kernel_shape, strides, pads, dilations, spatial_dimensions, as of a convolution.
//
// X must hold no negative values: the padding is zeros, and only then are they as good as ONNX's minus infinity. The
// exporter uses this operator only after a ReLU. With ONNX Runtime's MaxPool instead, the images before and after it
// would have to be planar, which costs ResNet-50 at 5.38 % 3 % of its time.
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
  PlanCache<ConvPlan> plans_;
};

}  // namespace nested_sparse
