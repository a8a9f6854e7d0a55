// DequantizeImage: X image -> Y float32 [N, C, H, W], or [N, C, W] with the attribute spatial_dimensions 1.
// y = scale * (x - zero), with X's range.
#pragma once

#include "image_operator.h"

namespace nested_sparse {

class DequantizeImage : public ImageOperator {
 public:
  explicit DequantizeImage(const ort::Attributes& attributes);
  void compute(const ort::Context& context) const override;

 private:
  int64_t spatial_;  // dimensions: 1 or 2
};

}  // namespace nested_sparse
