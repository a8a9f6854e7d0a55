// NestedLinear: X [..., K] -> Y [..., O], any rank of 1 or more.
#pragma once

#include "operator.h"

namespace nested_sparse {

// From this many rows of X on, it is faster to transpose X and to run the kernel of convolutions (measured for V = 16,
// 8 and 4).
inline constexpr int64_t kTransposeFrom = 4;

class NestedLinear : public NestedOperator {
 public:
  explicit NestedLinear(const ort::Attributes& attributes);
  void compute(const ort::Context& context) const override;

 private:
  struct Rows {  // X, residual (or null) and Y as matrices of `count` rows
    const float* x;
    const float* residual;
    float* y;
    int64_t count;
  };
  // For few rows: multiplies the sparse matrix by one row after the other.
  void run_rows(const ort::Context& context, const WeightView& view, const Rows& rows) const;
  // For many rows: transposes them, so that they are the pixels of a 1 x 1 convolution.
  void run_transposed(const ort::Context& context, const WeightView& view, const Rows& rows) const;
  void transpose_in(const ort::Context& context, const float* from, int64_t count, float* to, int64_t pitch) const;
  void multiply(const ort::Context& context, const SpmmArgs& args, int64_t blocks) const;
  void transpose_out(const ort::Context& context, const float* from, int64_t pitch, const Rows& rows) const;

  const KernelInfo& gemv_;
  const KernelInfo& spmm_;
};

}  // namespace nested_sparse
