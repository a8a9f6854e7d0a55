// QuantizedGlobalAveragePool: X image -> Y float32 [N, C, 1, 1], or [N, C, 1] with the attribute spatial_dimensions 1:
// the mean of each channel, scale * (sum - zero * pixels) / pixels in double precision, rounded to float32 at the end.
#pragma once

#include "image_operator.h"

namespace nested_sparse {

class QuantizedGlobalAveragePool : public ImageOperator {
 public:
  explicit QuantizedGlobalAveragePool(const ort::Attributes& attributes);
  void compute(const ort::Context& context) const override;

 private:
  int64_t spatial_;  // dimensions: 1 or 2
};

}  // namespace nested_sparse
