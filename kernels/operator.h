// The parts that operators share: the interface of all, and for NestedConv and NestedLinear the weight, the level of a
// run, the residual, and the division of work into tasks.
//
// Inputs of NestedConv and NestedLinear: X, level (int64 scalar), residual (optional), then one uint8 segment for each
// level. One output, Y.
#pragma once

#include "kernels.h"
#include "nested_weight.h"
#include "ort_context.h"

namespace nested_sparse {

enum InputIndex : size_t { kX = 0, kLevel = 1, kResidual = 2, kFirstSegment = 3 };

// The code that a node of the graph runs.
class Operator {
 public:
  virtual ~Operator() = default;
  // Computes the node once. Throws ort::Error. Thread-safe.
  virtual void compute(const ort::Context& context) const = 0;
};

class NestedOperator : public Operator {
 public:
  explicit NestedOperator(const ort::Attributes& attributes);

 protected:
  // Fills `out` with the weight at the run's level. The level input is read once, at this call: another thread, or the
  // run's own guard (route.h), may lower the level while the graph runs.
  void view(const ort::Context& context, WeightView& out) const;
  // The residual, or null where the input is absent. Throws ort::Error where its shape is not `shape`.
  const float* residual(const ort::Context& context, const ort::Shape& shape) const;
  [[noreturn]] void fail(const std::string& message) const;

  NestedWeight weight_;
  Clip clip_;
};

// A range of work, [begin, end).
struct Part {
  int64_t begin;
  int64_t end;
};
// Part `index` of `total` units that are cut into `parts` parts as evenly as possible.
inline Part part_of(int64_t total, int64_t parts, int64_t index) {
  return Part{total * index / parts, total * (index + 1) / parts};
}

int64_t core_count();
// The number of tasks into which to cut `units` units of work that cost `cost` in all. Each task costs at least
// `grain`, and there are no more tasks than are needed to keep all cores evenly busy.
int64_t task_count(int64_t units, double cost, double grain);

}  // namespace nested_sparse
