#include "linear_layer.h"

#include <algorithm>
#include <limits>

#include "scratch.h"
#include "squares.h"

namespace nested_sparse {
namespace {

constexpr double kCopyGrain = 16384;  // floats transposed by a task

}  // namespace

LinearLayer::Rows LinearLayer::read_rows(const ort::Context& context) const {
  const auto x = context.input<float>(kX);
  if (x.shape.rank == 0 || x.shape.size[x.shape.rank - 1] != weight_.columns()) {
    fail("X must be [..., " + std::to_string(weight_.columns()) + "], got " + x.shape.text());
  }
  ort::Shape shape = x.shape;
  shape.size[shape.rank - 1] = weight_.rows();
  const float* residual = this->residual(context, shape);
  return Rows{x.data, residual, context.output<float>(shape), x.shape.elements() / weight_.columns()};
}

LinearLayer::Rows LinearLayer::rows_from(const Rows& rows, int64_t first, int64_t count) const {
  const int64_t done = first * weight_.rows();
  const float* const residual = rows.residual == nullptr ? nullptr : rows.residual + done;
  return Rows{rows.x + first * weight_.columns(), residual, rows.y + done, count};
}

void LinearLayer::run_transposed(const ort::Context& context, const Rows& rows, const KernelInfo& spmm,
                                 const std::function<void(SpmmArgs& args)>& multiply) const {
  const int64_t most = int64_t{spmm.lanes} * spmm.vectors;
  const int64_t pitch = std::min(most, round_up(rows.count, spmm.lanes));
  float* const x = scratch(Purpose::input, weight_.columns() * pitch);
  float* const y = scratch(Purpose::output, weight_.rows() * pitch);
  const Clip open{-std::numeric_limits<float>::infinity(), std::numeric_limits<float>::infinity()};
  for (int64_t first = 0; first < rows.count; first += pitch) {
    const Rows part = rows_from(rows, first, std::min(pitch, rows.count - first));
    transpose_in(context, part, x, pitch, spmm.lanes);
    SpmmArgs args{PackedWeight{}, x, pitch, part.count, nullptr, 0, y, pitch, true, open};
    multiply(args);
    transpose_out(context, y, pitch, part);
  }
}

void LinearLayer::transpose_in(const ort::Context& context, const Rows& rows, float* to, int64_t pitch,
                               int64_t lanes) const {
  const int64_t columns = weight_.columns();
  const int64_t count = rows.count;
  const int64_t tasks = task_count(columns, static_cast<double>(columns * count), kCopyGrain);
  context.parallel_for(tasks, [&](int64_t task) {
    const Part part = part_of(columns, tasks, task);
    // The kernel also multiplies the padding of the last vector. Zeros keep it fast: left-over denormal numbers would
    // take a hundred times as long.
    const int64_t whole = round_up(count, lanes);
    for (int64_t k = part.begin; k < part.end; ++k) std::fill(to + k * pitch + count, to + k * pitch + whole, 0.0F);
    for_squares(count, part.end - part.begin, [&](int64_t row, int64_t i) {
      const int64_t k = part.begin + i;
      to[k * pitch + row] = rows.x[row * columns + k];
    });
  });
}

// Residual, clip and activation are applied here and not by the kernel: the residual's rows lie as those of Y.
void LinearLayer::transpose_out(const ort::Context& context, const float* from, int64_t pitch, const Rows& rows) const {
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
    outputs_.apply((part.end - part.begin) * outputs, rows.y + part.begin * outputs);
  });
}

}  // namespace nested_sparse
