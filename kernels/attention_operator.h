// ScaledDotProductAttention: y = softmax(scale q k^T + mask) v, head by head, without the matrices between.
//
// Inputs: Q, K, V of rank 4 or 5, and a mask of at most 4 dimensions (optional), which is broadcast to (batch, heads,
// queries, keys). Output: Y of rank 4. Attributes: scale; causal; q_axes, k_axes, v_axes, y_axes: the axes of batch,
// head and position, the last axis has the values of a head; q_place, k_place, v_place: the index on the fourth of a
// tensor's outer axes, so that one packed projection can be all three (FORMAT.md).
//
// With nodes of ONNX Runtime, a third of the time of the GPT in docs/families.md, at its sparsest level, went into the
// parting and transposing of queries, keys and values, and a quarter into products and softmax with all scores in
// memory (docs/decisions/066).
#pragma once

#include "attention/attention.h"
#include "operator.h"
#include "transposition/transposition.h"

namespace nested_sparse {

// The axes of batch, head and position in a tensor, and the index on the one that is left.
struct HeadAxes {
  // axes, place: names of attributes; place is null where no axis is left. Throws ort::Error.
  HeadAxes(const ort::Attributes& attributes, const char* axes, const char* place);

  static constexpr int64_t kMostPlaces = 1 << 20;
  int64_t at[3];
  int64_t place;
};

class ScaledDotProductAttention : public Operator {
 public:
  explicit ScaledDotProductAttention(const ort::Attributes& attributes);
  void compute(const ort::Context& context) const override;

 private:
  HeadAxes q_;
  HeadAxes k_;
  HeadAxes v_;
  HeadAxes y_;
  float scale_;
  bool causal_;
  const HeadLoops& loops_;
  const TransposeLoops& transposition_;
};

}  // namespace nested_sparse
