// QuantizedMultiply: X image, F float32 [N, C, 1, 1] or [N, C, 1], level -> Y image: each channel of X times its
// factor, as in squeeze-and-excitation.
//
//   y = clamp((x * G + c) >> 11, lo, hi)      c = 2^11 * z_y - G * z_x + 2^10
//
// with G = clamp(rint(2^11 * s_x * f / s_y)) within 16 bits, in double precision; 0 where f is NaN. Attributes: as of
// QuantizedAdd.
#pragma once

#include "blend_operator.h"

namespace nested_sparse {

class QuantizedMultiply : public BlendOperator {
 public:
  explicit QuantizedMultiply(const ort::Attributes& attributes) : BlendOperator("QuantizedMultiply", attributes) {}
  void compute(const ort::Context& context) const override;
};

}  // namespace nested_sparse
