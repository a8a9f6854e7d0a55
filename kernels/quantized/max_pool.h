// QuantizedMaxPool: X image -> Y image of X's range. Attributes: kernel_shape, strides, pads, dilations,
// spatial_dimensions, as of a convolution; y_border, y_gap. Padding never wins: it is 0, the least byte.
#pragma once

#include "../conv_plan.h"
#include "image_operator.h"

namespace nested_sparse {

class QuantizedMaxPool : public ImageOperator {
 public:
  explicit QuantizedMaxPool(const ort::Attributes& attributes);
  void compute(const ort::Context& context) const override;

 private:
  // A slice of the largest bytes of those that a window sees. raster: a channel of x.
  const uint8_t* slice_of(const QuantizedImage& x, Seen slices, const uint8_t* raster) const;

  ConvGeometry geometry_;
  ImageLayout layout_;
};

}  // namespace nested_sparse
