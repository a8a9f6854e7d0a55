// QuantizeImage: X float32 [N, C, H, W] or [N, C, W], level -> Y image. y = clamp(rint(x / y_scale) + y_zero, 0, 255);
// NaN gives the zero point. Attributes: y_scale and y_zero with an entry for each level; y_border, y_gap.
#pragma once

#include "image_operator.h"

namespace nested_sparse {

class QuantizeImage : public RangedOperator {
 public:
  explicit QuantizeImage(const ort::Attributes& attributes) : RangedOperator("QuantizeImage", attributes) {}
  void compute(const ort::Context& context) const override;
};

}  // namespace nested_sparse
