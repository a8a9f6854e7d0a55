// What the operators share and, of NestedConv and NestedLinear: their inputs, the level of a run, and the cutting of
// work into tasks.
//
// Inputs: X, level (int64 scalar), residual (optional), then one uint8 segment per level. One output, Y.
#pragma once

#include "kernels.h"
#include "nested_weight.h"
#include "ort_context.h"

namespace nested_sparse {

enum InputIndex : size_t { kX = 0, kLevel = 1, kResidual = 2, kFirstSegment = 3 };

// What a node of the graph runs.
class Operator {
 public:
  virtual ~Operator() = default;
  // One run; throws ort::Error. Thread-safe.
  virtual void compute(const ort::Context& context) const = 0;
};

class NestedOperator : public Operator {
 public:
  explicit NestedOperator(const ort::Attributes& attributes);

 protected:
  // The level's weight. Reads the level input now, once: another thread, or the run's own guard (route.h), may lower it
  // while the graph runs.
  void view(const ort::Context& context, WeightView& out) const;
  // The residual, or null where it is absent; its shape must be `shape`.
  const float* residual(const ort::Context& context, const ort::Shape& shape) const;
  [[noreturn]] void fail(const std::string& message) const;

  NestedWeight weight_;
  Clip clip_;
};

// [begin, end) of part `index` when `total` is cut into `parts` as evenly as can be.
struct Part {
  int64_t begin;
  int64_t end;
};
inline Part part_of(int64_t total, int64_t parts, int64_t index) {
  return Part{total * index / parts, total * (index + 1) / parts};
}

// In how many tasks to cut `units` of work that cost `cost` in all: tasks of `grain` or more, and not more of them than
// keep all cores evenly busy.
int64_t core_count();
int64_t task_count(int64_t units, double cost, double grain);

}  // namespace nested_sparse
