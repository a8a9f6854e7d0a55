#include "linear.h"

#include <algorithm>
#include <limits>

#include "scratch.h"

namespace nested_sparse {
namespace {

constexpr double kMultiplyGrain = 200000;  // multiply-adds of a task
constexpr double kCopyGrain = 16384;       // floats transposed by a task

int64_t round_up(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

// Calls move(r, c) for every element of a matrix, square by square. A square fits into L1, whether rows
// or columns are contiguous.
template <class Move>
void for_squares(int64_t rows, int64_t columns, const Move& move) {
  constexpr int64_t kSquare = 16;
  for (int64_t r0 = 0; r0 < rows; r0 += kSquare) {
    for (int64_t c0 = 0; c0 < columns; c0 += kSquare) {
      for (int64_t c = c0; c < std::min(columns, c0 + kSquare); ++c) {
        for (int64_t r = r0; r < std::min(rows, r0 + kSquare); ++r) move(r, c);
      }
    }
  }
}

}  // namespace

NestedLinear::NestedLinear(const ort::Attributes& attributes)
    : NestedOperator(attributes),
      gemv_(find_gemv(isa_choice().isa, weight_.kind())),
      spmm_(find_spmm(isa_choice().isa, weight_.kind())) {}

void NestedLinear::compute(const ort::Context& context) const {
  WeightView view;
  this->view(context, view);
  const auto x = context.input<float>(kX);
  if (x.shape.rank == 0 || x.shape.size[x.shape.rank - 1] != weight_.columns()) {
    fail("X must be [..., " + std::to_string(weight_.columns()) + "], got " + x.shape.text());
  }
  ort::Shape shape = x.shape;
  shape.size[shape.rank - 1] = weight_.rows();
  const float* residual = this->residual(context, shape);
  const Rows rows{x.data, residual, context.output(shape), x.shape.elements() / weight_.columns()};
  if (rows.count < kTransposeFrom) {
    run_rows(context, view, rows);
  } else {
    run_transposed(context, view, rows);
  }
}

void NestedLinear::run_rows(const ort::Context& context, const WeightView& view, const Rows& rows) const {
  const double cost = static_cast<double>(view.blocks * weight_.block_rows()) * static_cast<double>(rows.count);
  const int64_t tasks = task_count(weight_.groups(), cost, kMultiplyGrain);
  context.parallel_for(tasks, [&](int64_t task) {
    const Part groups = part_of(weight_.groups(), tasks, task);
    for (int64_t row = 0; row < rows.count; ++row) {
      const float* residual = rows.residual == nullptr ? nullptr : rows.residual + row * weight_.rows();
      const GemvArgs args{view.weight, rows.x + row * weight_.columns(), residual, rows.y + row * weight_.rows(),
                          clip_};
      gemv_.gemv(args, groups.begin, groups.end);
    }
  });
}

void NestedLinear::run_transposed(const ort::Context& context, const WeightView& view, const Rows& rows) const {
  const int64_t most = int64_t{spmm_.lanes} * spmm_.vectors;
  const int64_t pitch = std::min(most, round_up(rows.count, spmm_.lanes));
  float* const x = scratch(Purpose::input, weight_.columns() * pitch);
  float* const y = scratch(Purpose::output, weight_.rows() * pitch);
  const Clip open{-std::numeric_limits<float>::infinity(), std::numeric_limits<float>::infinity()};
  SpmmArgs args{view.weight, x, pitch, 0, nullptr, 0, y, pitch, true, open};
  for (int64_t first = 0; first < rows.count; first += pitch) {
    args.pixels = std::min(pitch, rows.count - first);
    transpose_in(context, rows.x + first * weight_.columns(), args.pixels, x, pitch);
    multiply(context, args, view.blocks);
    const int64_t done = first * weight_.rows();
    const float* const residual = rows.residual == nullptr ? nullptr : rows.residual + done;
    transpose_out(context, y, pitch, Rows{nullptr, residual, rows.y + done, args.pixels});
  }
}

void NestedLinear::transpose_in(const ort::Context& context, const float* from, int64_t count, float* to,
                                int64_t pitch) const {
  const int64_t columns = weight_.columns();
  const int64_t tasks = task_count(columns, static_cast<double>(columns * count), kCopyGrain);
  context.parallel_for(tasks, [&](int64_t task) {
    const Part part = part_of(columns, tasks, task);
    // The kernel also multiplies the padding of the last vector. Zeros keep it fast: left-over denormal numbers would
    // take a hundred times as long.
    const int64_t whole = round_up(count, spmm_.lanes);
    for (int64_t k = part.begin; k < part.end; ++k) std::fill(to + k * pitch + count, to + k * pitch + whole, 0.0F);
    for_squares(count, part.end - part.begin, [&](int64_t row, int64_t i) {
      const int64_t k = part.begin + i;
      to[k * pitch + row] = from[row * columns + k];
    });
  });
}

void NestedLinear::multiply(const ort::Context& context, const SpmmArgs& args, int64_t blocks) const {
  const double cost = static_cast<double>(blocks * weight_.block_rows()) * static_cast<double>(args.pixels);
  const int64_t tasks = task_count(weight_.spmm_groups(), cost, kMultiplyGrain);
  context.parallel_for(tasks, [&](int64_t task) {
    const Part groups = part_of(weight_.spmm_groups(), tasks, task);
    spmm_.spmm(args, groups.begin, groups.end);
  });
}

// Residual and clip are applied here and not by the kernel: the residual's rows lie as those of Y.
void NestedLinear::transpose_out(const ort::Context& context, const float* from, int64_t pitch,
                                 const Rows& rows) const {
  const int64_t outputs = weight_.rows();
  const int64_t tasks = task_count(rows.count, static_cast<double>(outputs * rows.count), kCopyGrain);
  context.parallel_for(tasks, [&](int64_t task) {
    const Part part = part_of(rows.count, tasks, task);
    for_squares(part.end - part.begin, outputs, [&](int64_t i, int64_t output) {
      const int64_t row = part.begin + i;
      const float value = from[output * pitch + row];
      const int64_t at = row * outputs + output;
      rows.y[at] = clip(rows.residual == nullptr ? value : value + rows.residual[at], clip_);
    });
  });
}

}  // namespace nested_sparse
