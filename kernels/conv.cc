#include "conv.h"

#include <algorithm>
#include <atomic>

#include "scratch.h"

namespace nested_sparse {
namespace {

constexpr double kMultiplyGrain = 400000;  // multiply-adds of a task: some 10 µs

int64_t read_choice(const ort::Attributes& attributes, const char* name, int64_t least, int64_t most,
                    int64_t otherwise) {
  const int64_t value = attributes.integer(name, otherwise);
  if (value < least || value > most) {
    throw ort::Error("attribute '" + std::string(name) + "': expected " + std::to_string(least) + " to " +
                     std::to_string(most) + ", got " + std::to_string(value));
  }
  return value;
}

// What a thread's matrix holds.
struct Matrix {
  uint64_t run;
  int64_t image, tile, group;
  bool operator==(const Matrix& other) const {
    return run == other.run && image == other.image && tile == other.tile && group == other.group;
  }
};

uint64_t next_run() {
  static std::atomic<uint64_t> count{0};
  return count.fetch_add(1, std::memory_order_relaxed) + 1;
}

}  // namespace

NestedConv::NestedConv(const ort::Attributes& attributes)
    : NestedOperator(attributes),
      geometry_(read_geometry(attributes)),
      spatial_(read_choice(attributes, "spatial_dimensions", 1, 2, 2)),
      channel_groups_(read_choice(attributes, "groups", 1, weight_.rows(), 1)),
      channels_(weight_.columns() / (geometry_.kernel[0] * geometry_.kernel[1])),
      x_tiled_(read_choice(attributes, "x_tiled", 0, 1, 0) == 1),
      y_tiled_(read_choice(attributes, "y_tiled", 0, 1, 0) == 1),
      residual_tiled_(read_choice(attributes, "residual_tiled", 0, 1, 0) == 1),
      kernel_(find_kernel(false, isa_choice().isa, weight_.block_rows(), weight_.index_bytes(), weight_.value_bytes(),
                          weight_.banks())),
      gather_(find_gather(isa_choice().isa)) {
  if (channels_ * geometry_.kernel[0] * geometry_.kernel[1] != weight_.columns()) {
    fail("columns must be a multiple of the window's " + std::to_string(geometry_.kernel[0] * geometry_.kernel[1]) +
         " taps, got " + std::to_string(weight_.columns()));
  }
  if (channel_groups_ > 1 && weight_.rows() % (channel_groups_ * weight_.block_rows()) != 0) {
    fail("the rows of each of the " + std::to_string(channel_groups_) + " groups must be whole blocks of " +
         std::to_string(weight_.block_rows()) + ", got " + std::to_string(weight_.rows()) + " rows in all");
  }
}

Image NestedConv::read_image(const ort::Context& context, InputIndex index, const char* name, bool tiled) const {
  try {
    return Image::read(context.input<float>(index), tiled, gather_.shape);
  } catch (const ort::Error& error) {
    fail(std::string(name) + " " + error.what());
  }
}

Image NestedConv::read_residual(const ort::Context& context, const ImageSize& size) const {
  const auto tensor = context.input<float>(kResidual);
  if (tensor.data == nullptr && tensor.shape.rank == 0) return Image{};
  const Image image = read_image(context, kResidual, "the residual", residual_tiled_);
  if (!(image.size == size)) {
    fail("the residual must have the output's shape " + size.text() + ", got " + image.size.text());
  }
  return image;
}

std::shared_ptr<const ConvPlan> NestedConv::plan_for(const Image& x) const {
  try {
    return plans_.plan_for(geometry_, x, gather_.shape);
  } catch (const ort::Error& error) {
    fail(error.what());
  }
}

void NestedConv::compute(const ort::Context& context) const {
  WeightView view;
  this->view(context, view);
  const Image x = read_image(context, kX, "X", x_tiled_);
  if (x.size.channels != channel_groups_ * channels_) {
    fail("X must be [N, " + std::to_string(channel_groups_ * channels_) + ", H, W], got " + x.size.text());
  }
  auto plan = plan_for(x);
  const ImageSize size{x.size.batch, weight_.rows(), plan->output_height(), plan->output_width()};
  const Image residual = read_residual(context, size);
  const Image y = Image::write(context, size, y_tiled_, gather_.shape, spatial_);
  run_tasks(context, Run{view, std::move(plan), x, residual, y, next_run()});
}

// The work goes tile by tile and, within a tile, by outputs; each range of it is a task. Ranges may cut a tile, which
// is then gathered for each: where tiles are few, ranges are too. Going through the tiles backwards in every other
// layer, so as to begin with what the one before wrote last, gained nothing.
void NestedConv::run_tasks(const ort::Context& context, const Run& run) const {
  const int64_t tiles = run.y.size.batch * run.y.tiling.tiles;
  const int64_t parts = channel_groups_ == 1 ? weight_.spmm_groups() : channel_groups_;
  const double cost = static_cast<double>(run.view.blocks * weight_.block_rows()) *
                      static_cast<double>(run.y.size.batch * run.y.tiling.pixels);
  int64_t ranges = task_count(tiles * parts, cost, kMultiplyGrain);
  if (!run.plan->direct() && tiles < 4 * ranges) {
    ranges = std::min(ranges, tiles < 2 * core_count() ? core_count() : 2 * core_count());
  }
  context.parallel_for(ranges, [&](int64_t range) {
    const Part work = part_of(tiles * parts, ranges, range);
    for (int64_t tile = work.begin / parts; tile * parts < work.end; ++tile) {
      const int64_t first = tile * parts;
      const Part outputs{std::max(work.begin - first, int64_t{0}), std::min(work.end - first, parts)};
      run_task(run, Task{tile / run.y.tiling.tiles, tile % run.y.tiling.tiles, outputs});
    }
  });
}

void NestedConv::run_task(const Run& run, const Task& task) const {
  const Image& y = run.y;
  SpmmArgs args{};
  args.weight = run.view.weight;
  args.pixels = y.tiling.pixels_of(task.tile);
  if (run.residual.data != nullptr) args.residual = run.residual.data + run.residual.offset(task.image, task.tile);
  args.residual_pitch = run.residual.data == nullptr ? 0 : run.residual.pitch(task.tile);
  args.y = const_cast<float*>(y.data) + y.offset(task.image, task.tile);
  args.y_pitch = y.pitch(task.tile);
  args.y_whole = y.tiled;
  args.clip = clip_;
  if (channel_groups_ == 1) {
    set_input(run, task, 0, args);
    kernel_.spmm(args, task.outputs.begin, task.outputs.end);
    return;
  }
  const int64_t rows = weight_.spmm_groups() / channel_groups_;
  for (int64_t group = task.outputs.begin; group < task.outputs.end; ++group) {
    set_input(run, task, group, args);
    kernel_.spmm(args, group * rows, (group + 1) * rows);
  }
}

// Points `args` to the input of a group of channels, gathering it unless this thread's matrix holds it: that of a tile
// which was cut between two ranges, and both came to this thread.
void NestedConv::set_input(const Run& run, const Task& task, int64_t group, SpmmArgs& args) const {
  const Image& x = run.x;
  const int64_t pitch = run.y.tiling.pitch(task.tile);
  const int64_t begin = group * channels_;
  args.x_pitch = pitch;
  if (run.plan->direct()) {
    args.x = x.data + x.offset(task.image, task.tile) + begin * pitch;
    return;
  }
  thread_local Matrix held{};
  float* const matrix = scratch(Purpose::input, run.plan->matrix_floats(channels_));
  const Matrix wanted{run.number, task.image, task.tile, group};
  if (!(held == wanted)) {
    run.plan->gather(gather_.gather, x.data + task.image * x.image_floats(), task.tile, begin, begin + channels_,
                     matrix);
    held = wanted;
  }
  args.x = matrix;
}

}  // namespace nested_sparse
