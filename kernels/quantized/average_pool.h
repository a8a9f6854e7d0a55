// QuantizedAveragePool: X image -> Y image of X's range. y = (2 sum + n) div (2 n), the mean of the n pixels under the
// window, rounded half up. Attributes: kernel_shape, strides, pads, dilations, as of a convolution; count_include_pad:
// 1 where padding counts, as the zero point; y_border, y_gap. A window that sees nothing gives the zero point.
#pragma once

#include "../conv_plan.h"
#include "image_operator.h"

namespace nested_sparse {

class QuantizedAveragePool : public ImageOperator {
 public:
  explicit QuantizedAveragePool(const ort::Attributes& attributes);
  void compute(const ort::Context& context) const override;

 private:
  ConvGeometry geometry_;
  ImageLayout layout_;
  bool counts_padding_;
};

}  // namespace nested_sparse
