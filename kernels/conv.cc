#include "conv.h"

#include <algorithm>

#include "column_cut.h"
#include "scratch.h"

namespace nested_sparse {
namespace {

constexpr double kMultiplyGrain = 400000;  // multiply-adds of a task, which take about 10 µs

}  // namespace

NestedConv::NestedConv(const ort::Attributes& attributes)
    : ConvLayer(attributes, 3),
      outputs_(attributes),
      whole_channels_(depthwise_ && weight_.banks() == 0 && weight_.kind().value_type == ValueType::float32),
      range_channels_(channels_of_range(channels_, geometry_.taps())),
      x_tiled_(read_choice(attributes, "x_tiled", 0, 1, 0) == 1),
      y_tiled_(read_choice(attributes, "y_tiled", 0, 1, 0) == 1),
      residual_tiled_(read_choice(attributes, "residual_tiled", 0, 1, 0) == 1),
      kernel_(find_spmm(isa_choice().isa, weight_.kind())),
      gather_(find_gather(isa_choice().isa)) {
  for (int64_t channel = 0; channel < channels_; channel += range_channels_) {
    bounds_.push_back(channel * geometry_.taps());
  }
}

Image NestedConv::read_image(const ort::Context& context, InputIndex index, const char* name, bool tiled) const {
  return checked(name, [&] { return Image::read(context.input<float>(index), tiled, gather_.shape); });
}

Image NestedConv::read_residual(const ort::Context& context, const ImageSize& size) const {
  const auto tensor = context.input<float>(kResidual);
  if (tensor.data == nullptr && tensor.shape.rank == 0) return Image{};
  const Image image = read_image(context, kResidual, "the residual ", residual_tiled_);
  check_residual(image.size, size);
  return image;
}

void NestedConv::compute(const ort::Context& context) const {
  WeightView view;
  this->view(context, view);
  const Image x = read_image(context, kX, "X ", x_tiled_);
  check_channels(x.size);
  if (whole_channels_ && view.levels[0].ptr[weight_.rows()] == weight_.rows() * geometry_.taps()) {
    const auto plan = checked("", [&] { return depthwise_plans_.plan_for(geometry_, x, gather_.shape); });
    if (plan->fits()) return run_depthwise(context, run_of(context, view, x, plan->output(x.size.batch)), *plan);
  }
  auto plan = checked("", [&] { return plans_.plan_for(geometry_, x, gather_.shape); });
  Run run = run_of(context, view, x, plan->output(x.size.batch, weight_.rows()));
  run.plan = std::move(plan);
  run_tasks(context, run);
}

NestedConv::Run NestedConv::run_of(const ort::Context& context, const WeightView& view, const Image& x,
                                   const ImageSize& size) const {
  check_output(size);
  const Image residual = read_residual(context, size);
  return Run{view, nullptr, x, residual, Image::write(context, size, y_tiled_, gather_.shape, spatial_), next_run()};
}

void NestedConv::run_tasks(const ort::Context& context, const Run& run) const {
  const int64_t tiles = run.y.size.batch * run.y.tiling.tiles;
  const double cost = static_cast<double>(run.view.blocks * weight_.block_rows()) *
                      static_cast<double>(run.y.size.batch * run.y.tiling.pixels);
  const int64_t ranges = range_count(tiles, parts(), cost, kMultiplyGrain, !run.plan->direct());
  for_ranges(context, tiles, parts(), ranges, [&](int64_t tile, Part outputs) {
    run_task(run, Task{tile / run.y.tiling.tiles, tile % run.y.tiling.tiles, outputs});
  });
}

// The kernel's arguments for the outputs of a tile, without inputs.
SpmmArgs NestedConv::arguments(const Run& run, int64_t image, int64_t tile) const {
  const Image& y = run.y;
  SpmmArgs args{};
  args.weight = run.view.weight;
  args.pixels = y.tiling.pixels_of(tile);
  if (run.residual.data != nullptr) args.residual = run.residual.data + run.residual.offset(image, tile);
  args.residual_pitch = run.residual.data == nullptr ? 0 : run.residual.pitch(tile);
  args.y = const_cast<float*>(y.data) + y.offset(image, tile);
  args.y_pitch = y.pitch(tile);
  args.y_whole = y.tiled;
  args.clip = clip_;
  args.x_pitch = y.tiling.pitch(tile);
  return args;
}

void NestedConv::run_task(const Run& run, const Task& task) const {
  SpmmArgs args = arguments(run, task.image, task.tile);
  if (range_channels_ < channels_ && !run.plan->direct() && channel_groups_ == 1 && weight_.banks() == 0) {
    run_ranges(run, task, args);
    return;
  }
  const int64_t first = channel_groups_ == 1 ? 0 : task.outputs.begin;
  const int64_t end = channel_groups_ == 1 ? 1 : task.outputs.end;
  // gather groups pad the last bundle; those rows are not outputs
  const int64_t rows = weight_.rows() / weight_.kernel_rows() / channel_groups_;
  for (int64_t group = first; group < end; ++group) {
    const int64_t channel = group * channels_;
    args.x = run.plan->direct() ? run.x.data + run.x.offset(task.image, task.tile) + channel * args.x_pitch
                                : gathered(run, task, channel, channel + channels_);
    const Part outputs = channel_groups_ == 1 ? task.outputs : Part{group * rows, (group + 1) * rows};
    multiply(args, outputs);
  }
}

// Where outputs have an activation, a few of them are computed at a time, so that it finds them in L1.
void NestedConv::multiply(const SpmmArgs& args, Part groups) const {
  if (outputs_.plain() || !args.last) return kernel_.spmm(args, groups.begin, groups.end);
  constexpr int64_t kTogether = 4096;  // outputs
  const int64_t rows = weight_.kernel_rows();
  const int64_t step = std::max<int64_t>(kTogether / (args.pixels * rows), 1);
  for (int64_t begin = groups.begin; begin < groups.end; begin += step) {
    const int64_t end = std::min(begin + step, groups.end);
    kernel_.spmm(args, begin, end);
    activate(args, Part{begin * rows, end * rows});
  }
}

// Applies the activation to the outputs of packed rows `rows`: at once where they lie without gaps, because a call for
// each of many short rows takes as long as several vectors.
void NestedConv::activate(const SpmmArgs& args, Part rows) const {
  const PackedWeight& weight = args.weight;
  const int64_t used = args.y_whole ? args.y_pitch : args.pixels;
  const bool all = rows.begin == 0 && rows.end == weight_.packed_rows();
  if (used == args.y_pitch && (weight.perm == nullptr || all)) {
    const int64_t count = std::min(rows.end, weight.rows) - rows.begin;
    if (count <= 0) return;  // a part of a high block that is padding alone
    return outputs_.apply(count * used, args.y + rows.begin * args.y_pitch);
  }
  for (int64_t r = rows.begin; r < rows.end; ++r) {
    const int64_t output = output_of(weight, r);
    if (output >= 0) outputs_.apply(args.pixels, args.y + output * args.y_pitch);
  }
}

// run_ranges multiplies the columns in ranges. The matrix of a range is gathered, and multiplied while it is in L2. A
// 3 x 3 layer over 512 channels at 7 x 7 pixels, whose matrix is 1.2 MB for a tile, gets a third faster for V = 1, and
// a few per cent for V = 4.
void NestedConv::run_ranges(const Run& run, const Task& task, SpmmArgs& args) const {
  const int64_t ranges = (channels_ + range_channels_ - 1) / range_channels_;
  const Part rows{weight_.row_group_of(task.outputs.begin), weight_.row_group_of(task.outputs.end - 1) + 1};
  const int64_t level_starts = (rows.end - rows.begin) * (ranges + 1);
  // The size that the densest level needs, so that a switch to a denser level allocates nothing.
  auto* const starts = reinterpret_cast<uint32_t*>(scratch(Purpose::starts, weight_.level_count() * level_starts));
  cut_columns(args.weight, weight_.kind().index_bytes, rows.begin, rows.end, bounds_.data(), ranges, starts);
  args.sums = scratch(Purpose::sums, weight_.packed_rows() * args.x_pitch);
  args.ptr_stride = ranges + 1;
  PackedLevel levels[kMaxLevels];
  args.weight.levels = levels;
  for (int64_t range = 0; range < ranges; ++range) {
    for (int32_t l = 0; l < args.weight.level_count; ++l) {
      levels[l] = run.view.levels[l];
      levels[l].ptr = starts + l * level_starts + range - rows.begin * args.ptr_stride;
    }
    const int64_t channel = range * range_channels_;
    args.x = gathered(run, task, channel, std::min(channel + range_channels_, channels_)) -
             channel * run.plan->taps() * args.x_pitch;
    args.first = range == 0;
    args.last = range == ranges - 1;
    multiply(args, task.outputs);
  }
}

// Computes a few channels of a band at a time, whose sums stay in L1. The kernel of the multiplication then makes the
// outputs from them (norm, residual, clip): it is called as for the last range of columns, without any levels.
void NestedConv::run_depthwise(const ort::Context& context, const Run& run, const DepthwisePlan& plan) const {
  const auto bands = static_cast<int64_t>(plan.bands().size());
  const double cost =
      static_cast<double>(run.view.blocks) * static_cast<double>(run.y.size.batch * run.y.tiling.pixels);
  const int64_t ranges = range_count(run.y.size.batch * bands, parts(), cost, kMultiplyGrain, false);
  for_ranges(context, run.y.size.batch * bands, parts(), ranges, [&](int64_t index, Part channels) {
    run_band(run, plan, plan.bands()[static_cast<size_t>(index % bands)], index / bands, channels);
  });
}

void NestedConv::run_band(const Run& run, const DepthwisePlan& plan, const DepthwisePlan::Band& band, int64_t image,
                          Part channels) const {
  constexpr int64_t kChannels = 16;
  const int64_t lanes = gather_.shape.lanes;
  DepthwiseArgs args = plan.arguments(band);
  args.plane_pitch = band.plane_floats + 2 * lanes;
  args.x = run.x.data + image * run.x.image_floats();
  args.plane = scratch(Purpose::input, kChannelsTogether * args.plane_pitch);
  args.wide = scratch(Purpose::output, kChannelsTogether * args.plane_pitch);
  args.sums = scratch(Purpose::sums, kChannels * args.pitch + lanes);
  args.weights = values_of<float>(run.view.levels[0]);
  std::fill_n(args.plane, kChannelsTogether * args.plane_pitch, 0.0F);
  std::fill_n(args.sums, kChannels * args.pitch + lanes, 0.0F);
  const int64_t used = std::min(band.pixels, run.y.tiling.pixels - band.first_pixel);
  for (int64_t begin = channels.begin; begin < channels.end; begin = args.channel_end) {
    args.channel_begin = begin;
    args.channel_end = std::min(begin + kChannels, channels.end);
    gather_.depthwise(args);
    // Lanes behind the last pixel hold what the kernel's whole vectors left there, which depends on the channels that
    // this task computed before.
    for (int64_t sums = 0; used < band.pixels && sums < args.channel_end - begin; ++sums) {
      std::fill_n(args.sums + sums * args.pitch + used, band.pixels - used, 0.0F);
    }
    for (int64_t tile = band.first_tile; tile < band.end_tile; ++tile) {
      SpmmArgs last = arguments(run, image, tile);
      last.weight.level_count = 0;
      last.first = false;
      last.x_pitch = args.pitch;
      last.sums = args.sums - begin * args.pitch + run.y.tiling.first_pixel(tile) - band.first_pixel;
      multiply(last, Part{begin, args.channel_end});
    }
  }
}

// The matrix of a range of channels.
const float* NestedConv::gathered(const Run& run, const Task& task, int64_t channel_begin, int64_t channel_end) const {
  const MatrixName name{run.number, task.image, task.tile, channel_begin};
  return held_matrix(name, run.plan->matrix_floats(channel_end - channel_begin), [&](float* matrix) {
    const float* const x = run.x.data + task.image * run.x.image_floats();
    run.plan->gather(gather_.gather, x, task.tile, channel_begin, channel_end, matrix);
  });
}

}  // namespace nested_sparse
