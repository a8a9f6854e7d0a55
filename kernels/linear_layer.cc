#include "linear_layer.h"

#include <algorithm>
#include <limits>

#include "scratch.h"
#include "transposition.h"

namespace nested_sparse {
namespace {

constexpr double kCopyGrain = 16384;  // floats transposed by a task

}  // namespace

int64_t transpose_from(int32_t block_rows, int32_t banks) {
  if (banks > 0) return 4;
  if (block_rows < 4) return block_rows == 1 ? 2 : 4;
  if (find_gather(isa_choice().isa).shape.lanes < 16) return 8;
  return block_rows >= 16 ? 14 : block_rows == 8 ? 10 : 8;
}

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
  const int64_t pitch = round_up(std::min(most, round_up(rows.count, spmm.lanes)), 4);
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
    float* const first = to + part.begin * pitch;
    transpose(rows.x + part.begin, columns, count, part.end - part.begin,
              [first, pitch](int64_t i, int64_t row, int64_t, Floats4 values)
                  __attribute__((always_inline)) { store_floats(first + i * pitch + row, 4, values); });
    const int64_t written = round_up(count, 4);
    for (int64_t k = part.begin; written < whole && k < part.end; ++k) {
      std::fill(to + k * pitch + written, to + k * pitch + whole, 0.0F);
    }
  });
}

// Residual, clip and activation are applied here and not by the kernel: the residual's rows lie as those of Y.
void LinearLayer::transpose_out(const ort::Context& context, const float* from, int64_t pitch, const Rows& rows) const {
  const int64_t outputs = weight_.rows();
  const int64_t tasks = task_count(rows.count, static_cast<double>(outputs * rows.count), kCopyGrain);
  context.parallel_for(tasks, [&](int64_t task) {
    const Part part = part_of(rows.count, tasks, task);
    const Floats4 lo = Floats4{} + clip_.lo;
    const Floats4 hi = Floats4{} + clip_.hi;
    const float* const residual = rows.residual;
    float* const y = rows.y;
    transpose(from + part.begin, pitch, outputs, part.end - part.begin,
              [&](int64_t i, int64_t output, int64_t count, Floats4 values) __attribute__((always_inline)) {
                const int64_t at = (part.begin + i) * outputs + output;
                if (residual != nullptr) values += load_floats(residual + at, count);
                values = values < lo ? lo : values;  // as clip(): a NaN stays
                values = values > hi ? hi : values;
                store_floats(y + at, count, values);
              });
    outputs_.apply((part.end - part.begin) * outputs, rows.y + part.begin * outputs);
  });
}

}  // namespace nested_sparse
