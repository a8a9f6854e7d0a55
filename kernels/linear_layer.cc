#include "linear_layer.h"

#include <algorithm>
#include <limits>

#include "round_up.h"
#include "scratch.h"

namespace nested_sparse {
namespace {

constexpr double kCopyGrain = 16384;  // floats transposed by a task
// Floats of the outputs that are computed before they are transposed, at most, so that they are still in L1 then.
constexpr int64_t kPiece = 4096;

}  // namespace

int64_t transpose_from(int32_t block_rows, int32_t banks) {
  if (banks > 0) return 4;
  if (block_rows < 4) return block_rows == 1 ? 2 : 4;
  if (find_gather(isa_choice().isa).shape.lanes < 16) return 8;
  return block_rows >= 16 ? 14 : block_rows == 8 ? 10 : 8;
}

LinearLayer::LinearLayer(const ort::Attributes& attributes)
    : NestedOperator(attributes), transposition_(find_transpose(isa_choice().isa)), outputs_(attributes) {}

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
                                 const Product& product) const {
  const int64_t most = int64_t{spmm.lanes} * spmm.vectors;
  const int64_t pitch = round_up(std::min(most, rows.count), std::max(spmm.lanes, transposition_.lanes));
  float* const x = scratch(Purpose::input, weight_.columns() * pitch);
  const Clip open{-std::numeric_limits<float>::infinity(), std::numeric_limits<float>::infinity()};
  const bool in_order = product.weight.perm == nullptr;
  // The outputs of a task are whole vectors, but for the last: others take twice as long to transpose.
  const int64_t unit = in_order ? std::max<int64_t>(1, transposition_.lanes / product.group_rows) : 1;
  const int64_t units = (product.groups + unit - 1) / unit;
  float* const y = in_order ? nullptr : scratch(Purpose::output, weight_.rows() * pitch);
  for (int64_t first = 0; first < rows.count; first += pitch) {
    Rows part = rows_from(rows, first, std::min(pitch, rows.count - first));
    if (product.norm != nullptr) part.x = product.norm->of(context, part.x, part.count);
    transpose_in(context, part, x, pitch);
    const SpmmArgs args{product.weight, x, pitch, part.count, nullptr, 0, y, pitch, true, open};
    const int64_t tasks = task_count(units, product.cost * static_cast<double>(part.count), kMultiplyGrain);
    context.parallel_for(tasks, [&](int64_t task) {
      const Part some = part_of(units, tasks, task);
      const Part groups{some.begin * unit, std::min(some.end * unit, product.groups)};
      if (in_order) return multiply_in_order(product, args, groups, part);
      product.multiply(args, groups.begin, groups.end);
    });
    if (!in_order) {
      const int64_t pieces = task_count(weight_.rows(), static_cast<double>(weight_.rows() * part.count), kCopyGrain);
      context.parallel_for(pieces, [&](int64_t piece) {
        const Part outputs = part_of(weight_.rows(), pieces, piece);
        transpose_out(y + outputs.begin * pitch, pitch, outputs, part);
      });
    }
    activate(context, part);
  }
}

// Where packed row r is output r: some groups after the other, each transposed at once.
void LinearLayer::multiply_in_order(const Product& product, SpmmArgs args, Part groups, const Rows& rows) const {
  const int64_t whole = kPiece / args.y_pitch / transposition_.lanes * transposition_.lanes;
  const int64_t together = std::max<int64_t>(1, std::max<int64_t>(whole, transposition_.lanes) / product.group_rows);
  float* const y = scratch(Purpose::output, together * product.group_rows * args.y_pitch);
  for (int64_t begin = groups.begin; begin < groups.end; begin += together) {
    const int64_t end = std::min(begin + together, groups.end);
    const Part outputs{std::min(begin * product.group_rows, weight_.rows()),  // the last rows may be padding
                       std::min(end * product.group_rows, weight_.rows())};
    args.y = y - outputs.begin * args.y_pitch;
    product.multiply(args, begin, end);
    transpose_out(y, args.y_pitch, outputs, rows);
  }
}

// The kernel also multiplies the padding of the last vector. Zeros keep it fast: left-over denormal numbers would take
// a hundred times as long.
void LinearLayer::transpose_in(const ort::Context& context, const Rows& rows, float* to, int64_t pitch) const {
  const int64_t columns = weight_.columns();
  const int64_t count = rows.count;
  const int64_t tasks = task_count(columns, static_cast<double>(columns * count), kCopyGrain);
  context.parallel_for(tasks, [&](int64_t task) {
    const Part part = part_of(columns, tasks, task);
    float* const first = to + part.begin * pitch;
    transposition_.pack({rows.x + part.begin, columns, count, part.end - part.begin, first, pitch});
  });
}

// Residual and clip are applied here and not by the kernel: the residual's rows lie as those of Y.
void LinearLayer::transpose_out(const float* from, int64_t pitch, Part outputs, const Rows& rows) const {
  const float* const residual = rows.residual == nullptr ? nullptr : rows.residual + outputs.begin;
  transposition_.finish({from, pitch, outputs.end - outputs.begin, rows.count, rows.y + outputs.begin, weight_.rows()},
                        residual, clip_);
}

}  // namespace nested_sparse
