// NestedLSTM and NestedGRU: one layer of a recurrent network, in one direction.
//
//   X [T, N, G * H] -> Y [T, N, H], and of an LSTM also the last cells [N, H]
//
// X is what the layer's input gives to the gates: a linear layer has computed it for all steps at once. Here the
// weight, G * H rows of H columns, multiplies the hidden state of the step before (gates/gates.h has the formulas).
// Input 2 is the initial state: hidden, and of an LSTM cells, [2, N, H] or [1, N, H]; zeros where it is absent.
// Attribute `reverse`: 1 where time runs backwards; Y lies in the order of X.
//
// From transpose_from() sequences on, their states are the pixels of the kernel of convolutions.
//
// The level is read once: it does not change within a sequence.
#pragma once

#include "linear_layer.h"

namespace nested_sparse {

class Recurrent : public NestedOperator {
 public:
  void compute(const ort::Context& context) const override;

 protected:
  Recurrent(const ort::Attributes& attributes, int64_t gates, bool has_cells);

 private:
  struct Run {  // the tensors of one run
    const float* x;
    const float* hidden;  // initial [N, H], or null
    float* y;
    float* cells;  // [N, H], or null
    int64_t steps, batch;
  };
  int64_t size() const { return weight_.columns(); }
  int64_t step_at(const Run& run, int64_t done) const { return reverse_ ? run.steps - 1 - done : done; }
  Run read(const ort::Context& context) const;
  // For few sequences: multiplies the sparse matrix by one hidden state after the other.
  void run_rows(const ort::Context& context, const WeightView& view, const Run& run) const;
  // For many: their hidden states are the pixels of a 1 x 1 convolution. Computes `count` sequences from `first` on.
  void run_lanes(const ort::Context& context, const WeightView& view, const Run& run, int64_t first,
                 int64_t count) const;
  void transpose_in(const float* rows, int64_t count, int64_t columns, int64_t lanes, float* to) const;
  void transpose_out(const float* from, int64_t count, int64_t columns, int64_t lanes, float* rows) const;
  void step(const GateArgs& args) const { has_cells_ ? gates_.lstm(args) : gates_.gru(args); }

  const bool has_cells_;
  const bool reverse_;
  const KernelInfo& gemv_;
  const KernelInfo& spmm_;
  const GateLoops& gates_;
  const TransposeLoops& transposition_;
};

class NestedLstm : public Recurrent {
 public:
  explicit NestedLstm(const ort::Attributes& attributes) : Recurrent(attributes, 4, true) {}
};

class NestedGru : public Recurrent {
 public:
  explicit NestedGru(const ort::Attributes& attributes) : Recurrent(attributes, 3, false) {}
};

}  // namespace nested_sparse
