// NestedLinear: X [..., K] -> Y [..., O], any rank of 1 or more.
#pragma once

#include "linear_layer.h"

namespace nested_sparse {

class NestedLinear : public LinearLayer {
 public:
  explicit NestedLinear(const ort::Attributes& attributes);
  void compute(const ort::Context& context) const override;

 private:
  // For few rows: multiplies the sparse matrix by them as they lie.
  void run_rows(const ort::Context& context, const WeightView& view, const Rows& rows) const;

  InputNorm norm_;
  int64_t transpose_from_;
  const KernelInfo& gemv_;
  const KernelInfo& spmm_;
};

}  // namespace nested_sparse
