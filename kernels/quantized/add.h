// QuantizedAdd: A image, B image of A's size, level -> Y image.
//
//   y = clamp((a * R_a + b * R_b + c) >> 11, lo, hi)      c = 2^11 * z_y - R_a * z_a - R_b * z_b + 2^10
//
// with R as for the residual of a convolution (epilogue.h). Attributes: y_scale and y_zero with an entry for each
// level; clip_min, clip_max; y_border, y_gap.
#pragma once

#include "blend_operator.h"

namespace nested_sparse {

class QuantizedAdd : public BlendOperator {
 public:
  explicit QuantizedAdd(const ort::Attributes& attributes) : BlendOperator("QuantizedAdd", attributes) {}
  void compute(const ort::Context& context) const override;
};

}  // namespace nested_sparse
