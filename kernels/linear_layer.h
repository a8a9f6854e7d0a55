// LinearLayer: what the linear layers of float and of int8 weights share: X [..., K] -> Y [..., O] of any rank of 1 or
// more, and the transposition of many rows for a kernel of convolutions.
#pragma once

#include <functional>

#include "input_norm.h"
#include "operator.h"

namespace nested_sparse {

// From this many rows of X on, it is faster to transpose X and to run the kernel of convolutions, on the instruction
// set in use. The other kernel uses all lanes whatever the number of rows, if V fills its vectors; that of convolutions
// does so only where the rows are whole vectors. Measured on an Intel Xeon (model 167) with layers of 128 x 128, 640 x
// 128 and 1024 x 1024 at 5, 13 and 35 %. banks: B of gather groups, else 0.
int64_t transpose_from(int32_t block_rows, int32_t banks);

constexpr double kMultiplyGrain = 200000;  // multiply-adds of a task of linear and recurrent layers

class LinearLayer : public NestedOperator {
 public:
  explicit LinearLayer(const ort::Attributes& attributes);

 protected:
  struct Rows {  // X, residual (or null) and Y as matrices of `count` rows
    const float* x;
    const float* residual;
    float* y;
    int64_t count;
  };
  // Throws ort::Error where X or the residual does not fit the weight.
  Rows read_rows(const ort::Context& context) const;
  // `count` of the rows, from `first` on.
  Rows rows_from(const Rows& rows, int64_t first, int64_t count) const;
  // Applies the layer's activation to all outputs; run_transposed does so itself.
  void activate(const ort::Context& context, const Rows& rows) const {
    outputs_.apply(context, rows.count * weight_.rows(), rows.y);
  }
  // How to multiply the rows once they are the pixels of a 1 x 1 convolution: multiply(args, begin, end) computes the
  // outputs of groups [begin, end), of `group_rows` packed rows each, without residual and clip. cost: multiply-adds
  // for each pixel.
  struct Product {
    const PackedWeight& weight;
    int64_t groups;
    int64_t group_rows;
    double cost;
    std::function<void(const SpmmArgs& args, int64_t begin, int64_t end)> multiply;
    const InputNorm* norm;  // null: of an operator that has none
  };
  // For many rows: normalises and transposes as many of them at a time as `spmm` computes at once, multiplies them,
  // transposes what results, and applies residual, clip and activation.
  void run_transposed(const ort::Context& context, const Rows& rows, const KernelInfo& spmm,
                      const Product& product) const;

 private:
  void transpose_in(const ort::Context& context, const Rows& rows, float* to, int64_t pitch) const;
  // Outputs `outputs` of all rows. from: those of output o lie at from + o * pitch.
  void transpose_out(const float* from, int64_t pitch, Part outputs, const Rows& rows) const;
  void multiply_in_order(const Product& product, SpmmArgs args, Part groups, const Rows& rows) const;

  const TransposeLoops& transposition_;
  Outputs outputs_;
};

}  // namespace nested_sparse
