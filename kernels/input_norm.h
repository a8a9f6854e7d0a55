// InputNorm: the LayerNorm of a linear layer's inputs, which the layer computes itself. As a node of ONNX Runtime it
// took a tenth of the time of small Transformers at 5.38 % (decision 070).
#pragma once

#include <vector>

#include "normalization/normalization.h"
#include "ort_context.h"

namespace nested_sparse {

class InputNorm {
 public:
  // Attributes norm_scale and norm_shift, `columns` numbers each, and norm_epsilon. Without norm_scale there is none.
  InputNorm(const ort::Attributes& attributes, int64_t columns);
  // The `count` rows of x, each normalised, in memory of this thread until its next call; x where there is no norm.
  const float* of(const ort::Context& context, const float* x, int64_t count) const;

 private:
  std::vector<float> scale_;
  std::vector<float> shift_;
  float epsilon_ = 0.0F;
  const NormalizeLoop& loop_;
};

}  // namespace nested_sparse
