#include "recurrent.h"

#include <algorithm>
#include <limits>
#include <string>

#include "round_up.h"
#include "scratch.h"

namespace nested_sparse {

Recurrent::Recurrent(const ort::Attributes& attributes, int64_t gates, bool has_cells)
    : NestedOperator(attributes),
      has_cells_(has_cells),
      reverse_(read_choice(attributes, "reverse", 0, 1, 0) == 1),
      gemv_(find_gemv(isa_choice().isa, weight_.kind())),
      spmm_(find_spmm(isa_choice().isa, weight_.kind())),
      gates_(find_gates(isa_choice().isa)),
      transposition_(find_transpose(isa_choice().isa)) {
  if (weight_.rows() != gates * size()) {
    fail("expected " + std::to_string(gates) + " rows for each of its " + std::to_string(size()) + " columns, got " +
         std::to_string(weight_.rows()) + " rows");
  }
}

void Recurrent::compute(const ort::Context& context) const {
  WeightView view;
  this->view(context, view);
  const Run run = read(context);
  if (run.batch < transpose_from(weight_.block_rows(), weight_.banks())) {
    run_rows(context, view, run);
    return;
  }
  const int64_t most = int64_t{spmm_.lanes} * spmm_.vectors;
  for (int64_t first = 0; first < run.batch; first += most) {
    run_lanes(context, view, run, first, std::min(most, run.batch - first));
  }
}

Recurrent::Run Recurrent::read(const ort::Context& context) const {
  const auto x = context.input<float>(kX);
  if (x.shape.rank != 3 || x.shape.size[2] != weight_.rows()) {
    fail("X must be [T, N, " + std::to_string(weight_.rows()) + "], got " + x.shape.text());
  }
  if (x.shape.size[0] == 0) fail("a sequence must have at least one step, got X " + x.shape.text());
  const int64_t batch = x.shape.size[1];
  ort::Shape shape{3, {has_cells_ ? 2 : 1, batch, size()}};
  const float* const state = residual(context, shape, "initial state must be");
  shape.size[0] = x.shape.size[0];
  float* const y = context.output<float>(shape);
  float* cells = nullptr;
  if (has_cells_) {
    cells = context.output<float>(ort::Shape{2, {batch, size()}}, 1);
    if (state == nullptr) std::fill(cells, cells + batch * size(), 0.0F);
    if (state != nullptr) std::copy_n(state + batch * size(), batch * size(), cells);
  }
  return Run{x.data, state, y, cells, x.shape.size[0], batch};
}

void Recurrent::run_rows(const ort::Context& context, const WeightView& view, const Run& run) const {
  const int64_t row_floats = weight_.rows();
  float* const sums = scratch(Purpose::output, run.batch * row_floats);
  float* const zeros = scratch(Purpose::input, size());
  std::fill(zeros, zeros + size(), 0.0F);
  const double cost = static_cast<double>(view.blocks * weight_.block_rows()) * static_cast<double>(run.batch);
  const int64_t tasks = task_count(weight_.gemv_groups(), cost, kMultiplyGrain);
  const float* before = run.hidden;
  for (int64_t done = 0; done < run.steps; ++done) {
    const float* const x = run.x + step_at(run, done) * run.batch * row_floats;
    float* const y = run.y + step_at(run, done) * run.batch * size();
    const auto previous = [&](int64_t row) { return before == nullptr ? zeros : before + row * size(); };
    context.parallel_for(tasks, [&](int64_t task) {
      const Part groups = part_of(weight_.gemv_groups(), tasks, task);
      const int64_t x_pitch = before == nullptr ? 0 : size();
      const GemvArgs args{view.weight, previous(0), has_cells_ ? x : nullptr, sums, clip_, run.batch,
                          x_pitch,     row_floats};
      gemv_.gemv(args, groups.begin, groups.end);
    });
    for (int64_t row = 0; row < run.batch; ++row) {
      float* const cell = has_cells_ ? run.cells + row * size() : nullptr;
      step({sums + row * row_floats, x + row * row_floats, size(), previous(row), cell, y + row * size(), size()});
    }
    before = y;
  }
}

// Transposes rows [count, columns] to [columns, lanes], with zeros in lanes that have no row; null: all are zeros.
void Recurrent::transpose_in(const float* rows, int64_t count, int64_t columns, int64_t lanes, float* to) const {
  if (rows == nullptr) {
    std::fill(to, to + columns * lanes, 0.0F);
  } else {
    transposition_.pack({rows, columns, count, columns, to, lanes});
  }
}

void Recurrent::transpose_out(const float* from, int64_t count, int64_t columns, int64_t lanes, float* rows) const {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  transposition_.finish({from, lanes, columns, count, rows, columns}, nullptr, {-kInfinity, kInfinity});
}

void Recurrent::run_lanes(const ort::Context& context, const WeightView& view, const Run& run, int64_t first,
                          int64_t count) const {
  const int64_t row_floats = weight_.rows();
  const int64_t lanes = round_up(count, std::max(spmm_.lanes, transposition_.lanes));
  float* const hidden = scratch(Purpose::input, size() * lanes);
  float* const cells = scratch(Purpose::cells, size() * lanes);
  float* const sums = scratch(Purpose::output, row_floats * lanes);
  float* const parts = scratch(Purpose::parts, row_floats * lanes);
  transpose_in(run.hidden == nullptr ? nullptr : run.hidden + first * size(), count, size(), lanes, hidden);
  if (has_cells_) transpose_in(run.cells + first * size(), count, size(), lanes, cells);
  const SpmmArgs args{view.weight, hidden, lanes, lanes, has_cells_ ? parts : nullptr, lanes, sums, lanes, true, clip_};
  const double cost = static_cast<double>(view.blocks * weight_.block_rows()) * static_cast<double>(count);
  const int64_t tasks = task_count(weight_.spmm_groups(), cost, kMultiplyGrain);
  for (int64_t done = 0; done < run.steps; ++done) {
    const int64_t at = step_at(run, done) * run.batch + first;
    transpose_in(run.x + at * row_floats, count, row_floats, lanes, parts);
    context.parallel_for(tasks, [&](int64_t task) {
      const Part groups = part_of(weight_.spmm_groups(), tasks, task);
      spmm_.spmm(args, groups.begin, groups.end);
    });
    step({sums, parts, size() * lanes, hidden, cells, hidden, size() * lanes});
    transpose_out(hidden, count, size(), lanes, run.y + at * size());
  }
  if (has_cells_) transpose_out(cells, count, size(), lanes, run.cells + first * size());
}

}  // namespace nested_sparse
