#include "conv.h"

#include <algorithm>
#include <string>

#include "kernels.h"

namespace nested_sparse {

namespace {

constexpr double kMultiplyGrain = 800000;  // multiply-adds of a task, which take about 5 µs
constexpr size_t kTable = 256;

}  // namespace

QuantizedConv::QuantizedConv(const ort::Attributes& attributes)
    : ConvLayer(attributes, 3),
      y_layout_(read_layout(attributes)),
      y_ranges_(read_ranges(attributes, "y_scale", "y_zero", static_cast<size_t>(weight_.level_count()))),
      sum_ranges_(y_ranges_),
      table_(attributes.bytes("table")),
      kernel_(find_spmm8(isa_choice(), weight_.block_rows()).spmm),
      gather_(find_gather8(isa_choice().isa)) {
  if (weight_.kind().value_type != ValueType::int8) fail("value_bytes must be 1 (int8)");
  if (!table_.empty()) read_table(attributes);
}

void QuantizedConv::read_table(const ort::Attributes& attributes) {
  const size_t expected = kTable * y_ranges_.size();
  if (table_.size() != expected) {
    fail("the table must have 256 bytes for each level, " + std::to_string(expected) + ", got " +
         std::to_string(table_.size()));
  }
  sum_ranges_ = read_ranges(attributes, "sum_scale", "sum_zero", y_ranges_.size());
}

QuantizedImage QuantizedConv::read_residual(const ort::Context& context, const ImageSize& size) const {
  const auto tensor = context.input<uint8_t>(kResidual);
  if (tensor.data == nullptr && tensor.shape.rank == 0) return QuantizedImage{};
  const auto image = checked("the residual ", [&] { return QuantizedImage::read(tensor); });
  check_residual(image.size, size);
  if (image.layout.gap != y_layout_.gap) {
    fail("the residual must have the output's gap " + std::to_string(y_layout_.gap) + ", got " +
         std::to_string(image.layout.gap) + "; export the model again");
  }
  return image;
}

// The residual has been read: ONNX Runtime may give Y its memory, where both have the same shape.
QuantizedImage QuantizedConv::write_y(const ort::Context& context, const ImageSize& size, int32_t level,
                                      const QuantizedImage& residual) const {
  const ByteRange range = y_ranges_[static_cast<size_t>(level)];
  const auto y = checked("Y: ", [&] { return QuantizedImage::write(context, size, y_layout_, range); });
  if (y.data == residual.data && !(y.layout == residual.layout)) {
    fail("the residual lies in the output's memory but has border " + std::to_string(residual.layout.border) +
         " in place of " + std::to_string(y_layout_.border) + "; export the model again");
  }
  return y;
}

void QuantizedConv::compute(const ort::Context& context) const {
  WeightView view;
  this->view(context, view);
  const auto level = static_cast<size_t>(view.level());
  const auto x = checked("X ", [&] { return QuantizedImage::read(context.input<uint8_t>(kX)); });
  check_channels(x.size);
  const auto plan = checked("", [&] { return plans_.plan_for(geometry_, x, y_layout_, channels_); });
  const ImageSize size = plan->output(x.size.batch, weight_.rows());
  check_output(size);
  const QuantizedImage residual = read_residual(context, size);
  const ByteRange sums = sum_ranges_[level];
  const auto epilogue = epilogues_.epilogue_for(view, {x.range, sums, residual.range});
  const QuantizedImage y = write_y(context, size, view.level(), residual);
  QuadLevel levels[kMaxLevels];
  view.quads(levels);
  const ByteLimits limits = table_.empty() ? limits_of(clip_, sums) : ByteLimits{0, 255};
  Spmm8Args args{};
  args.levels = levels;
  args.level_count = view.weight.level_count;
  args.offsets = plan->offsets();
  args.bias = epilogue->bias.data();
  args.shift = epilogue->shift.data();
  args.multiplier = epilogue->multiplier.data();
  args.perm = view.weight.perm;
  args.rows = weight_.rows();
  args.residual_pitch = residual.channel_step;
  args.residual_multiplier = epilogue->residual_multiplier;
  args.table = table_.empty() ? nullptr : table_.data() + kTable * level;
  args.lo = limits.lo;
  args.hi = limits.hi;
  args.y_pitch = y.channel_step;
  args.pad = y.range.zero;
  args.masked = y.planes();
  const int64_t shared_quads = channel_groups_ == 1 ? epilogue->shared_quads : 0;
  run_tasks(context, view, Run{*plan, args, x, residual, y, shared_quads, next_run()});
}

void QuantizedConv::run_tasks(const ort::Context& context, const WeightView& view, const Run& run) const {
  const int64_t tiles = run.y.size.batch * run.y.tiles;
  const double cost = static_cast<double>(view.blocks * weight_.block_rows()) *
                      static_cast<double>(run.y.size.batch * run.y.positions());
  const int64_t ranges = range_count(tiles, parts(), cost, kMultiplyGrain, !run.plan.direct());
  for_ranges(context, tiles, parts(), ranges,
             [&](int64_t tile, Part outputs) { run_task(run, Task{tile / run.y.tiles, tile % run.y.tiles, outputs}); });
}

void QuantizedConv::run_task(const Run& run, const Task& task) const {
  const QuantizedImage& y = run.y;
  Spmm8Args args = run.args;
  args.y = y.out(task.image, task.tile);
  if (run.residual.data != nullptr) args.residual = run.residual.at(task.image, task.tile);
  args.keep = run.plan.keep(task.tile);
  args.pixels = y.tile_width(task.tile);
  if (task.tile == 0) {
    // Channels by their number, whatever rows compute them: each is in one part.
    const int64_t rows = channel_groups_ == 1 ? weight_.block_rows() : weight_.rows() / channel_groups_;
    y.write_border(task.image, std::min(task.outputs.begin * rows, y.size.channels),
                   std::min(task.outputs.end * rows, y.size.channels));
  }
  if (run.shared_quads > 0) args.shared_quads = byte_scratch(Purpose::quads, kSharedQuadBytes * run.shared_quads);
  if (depthwise_) return run_depthwise(run, task, args);
  const int64_t first = channel_groups_ == 1 ? 0 : task.outputs.begin;
  const int64_t end = channel_groups_ == 1 ? 1 : task.outputs.end;
  const int64_t rows = weight_.groups() / channel_groups_;
  for (int64_t group = first; group < end; ++group) {
    const int64_t channel = group * channels_;
    args.x = run.plan.direct() ? run.x.at(task.image, task.tile) + channel * run.x.channel_step
                               : gathered(run, task, channel, channel + channels_);
    const Part outputs = channel_groups_ == 1 ? task.outputs : Part{group * rows, (group + 1) * rows};
    kernel_(args, outputs.begin, outputs.end);
  }
}

// One call of the kernel computes many channels, each from its own pixels. Gathered, they are so many that their matrix
// stays in L1.
void QuantizedConv::run_depthwise(const Run& run, const Task& task, Spmm8Args& args) const {
  if (run.plan.direct()) {
    args.x = run.x.at(task.image, task.tile);
    args.x_group_step = run.x.channel_step;
    kernel_(args, task.outputs.begin, task.outputs.end);
    return;
  }
  const int64_t channels = std::max<int64_t>(16384 / run.plan.matrix_bytes(1), 1);
  args.x_group_step = run.plan.matrix_bytes(1);
  for (int64_t begin = task.outputs.begin; begin < task.outputs.end; begin += channels) {
    const int64_t end = std::min(begin + channels, task.outputs.end);
    args.x = gathered(run, task, begin, end) - begin * args.x_group_step;
    kernel_(args, begin, end);
  }
}

// The matrix of a range of channels. This thread may have gathered it already: a tile may be cut between two tasks that
// both run on this thread.
const uint8_t* QuantizedConv::gathered(const Run& run, const Task& task, int64_t channel_begin,
                                       int64_t channel_end) const {
  thread_local MatrixName held{};
  uint8_t* const matrix = byte_scratch(Purpose::byte_matrix, run.plan.matrix_bytes(channel_end - channel_begin));
  const MatrixName wanted{run.number, task.image, task.tile, channel_begin};
  if (!(held == wanted)) {
    run.plan.gather(gather_, run.x, task.image, task.tile, channel_begin, channel_end, matrix);
    held = wanted;
  }
  return matrix;
}

}  // namespace nested_sparse
