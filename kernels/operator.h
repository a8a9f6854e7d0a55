// The parts that operators share: the interface of all, and for those of layers the weight, the level of a run, the
// residual, and the division of work into tasks.
//
// Inputs of a layer's operator: X, level (int64 scalar), residual or initial state (optional), then one uint8 segment
// for each level.
#pragma once

#include <algorithm>

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
  // The residual, or another tensor in its place that `name` names, or null where the input is absent. Throws
  // ort::Error where its shape is not `shape`.
  const float* residual(const ort::Context& context, const ort::Shape& shape,
                        const char* name = "residual must have the output's shape") const;
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
// A number that no other run of an operator has in this process, nor 0.
uint64_t next_run();
// The number of tasks into which to cut `units` units of work that cost `cost` in all. Each task costs at least
// `grain`, and there are no more tasks than are needed to keep all cores evenly busy.
int64_t task_count(int64_t units, double cost, double grain);

// The work of a convolution, ordered by tiles and within a tile by `parts` of its outputs, is cut into ranges of units
// (tile, part), and each range is a task. `tiles` counts those of the whole batch. A tile that lies in two ranges is
// gathered twice where its convolution gathers, so there are then few ranges where there are few tiles.
int64_t range_count(int64_t tiles, int64_t parts, double cost, double grain, bool gathers);
// Calls run(tile, parts of it) for all units, on the session's threads. Tried: every other layer in reverse, to start
// with the tiles that are still in L2. No gain.
template <class Run>
void for_ranges(const ort::Context& context, int64_t tiles, int64_t parts, int64_t ranges, const Run& run) {
  context.parallel_for(ranges, [&](int64_t range) {
    const Part work = part_of(tiles * parts, ranges, range);
    for (int64_t tile = work.begin / parts; tile * parts < work.end; ++tile) {
      const int64_t first = tile * parts;
      run(tile, Part{std::max(work.begin - first, int64_t{0}), std::min(work.end - first, parts)});
    }
  });
}

// The function that a layer applies to its outputs, after all else: the attribute `activation_function`.
struct Outputs {
  explicit Outputs(const ort::Attributes& attributes);
  bool plain() const { return activation == Activation::none; }
  void apply(int64_t count, float* y) const {
    if (!plain()) kernels.activate(activation, count, y);
  }
  // The same on the session's threads.
  void apply(const ort::Context& context, int64_t count, float* y) const;

  // y = clip(x scale + shift), without the function.
  void scale(int64_t count, const float* x, float scale, float shift, Clip bounds, float* y) const {
    kernels.scale(count, x, scale, shift, bounds, y);
  }

  Activation activation;
  const ActivateInfo& kernels;
};

// An attribute that may be absent, within bounds. Throws ort::Error.
int64_t read_choice(const ort::Attributes& attributes, const char* name, int64_t least, int64_t most, int64_t absent);

}  // namespace nested_sparse
