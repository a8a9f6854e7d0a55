#include "conv_transpose.h"

#include <algorithm>
#include <cstring>

#include "column_cut.h"
#include "scratch.h"

namespace nested_sparse {
namespace {

constexpr int64_t kMaxCuts = 1 << 16;      // of the columns of a weight
constexpr double kMultiplyGrain = 400000;  // multiply-adds of a task, which take about 10 µs

// Pixels of one row of the grid, of one channel.
struct GridRow {
  const float* from;  // of the first phase
  int64_t phase;      // floats from one phase of the row to the next
  int64_t count;      // pixels
};

// Writes the phases of a row next to each other, to the `room` floats from `to` on.
void interleave(const GridRow& row, int64_t phases, float* to, int64_t room) {
  if (phases == 1) {
    std::memcpy(to, row.from, static_cast<size_t>(std::min(row.count, room)) * sizeof(float));
    return;
  }
  if (phases == 2) {  // most often: the compiler makes vectors of it
    const float* const even = row.from;
    const float* const odd = row.from + row.phase;
    const int64_t pairs = std::min(row.count, room / 2);
    for (int64_t i = 0; i < pairs; ++i) {
      to[2 * i] = even[i];
      to[2 * i + 1] = odd[i];
    }
    if (pairs < row.count && 2 * pairs < room) to[2 * pairs] = even[pairs];
    return;
  }
  for (int64_t p = 0; p < phases; ++p) {
    const float* const from = row.from + p * row.phase;
    const int64_t count = std::min(row.count, (room - p + phases - 1) / phases);
    for (int64_t i = 0; i < count; ++i) to[i * phases + p] = from[i];
  }
}

}  // namespace

NestedConvTranspose::NestedConvTranspose(const ort::Attributes& attributes)
    : ConvLayer(attributes, 3),
      window_(attributes, geometry_, spatial_),
      x_tiled_(read_choice(attributes, "x_tiled", 0, 1, 0) == 1),
      kernel_(find_spmm(isa_choice().isa, weight_.kind())),
      gather_(find_gather(isa_choice().isa)) {
  if (weight_.banks() != 0 || channel_groups_ != 1)
    fail("transposed convolutions take blocks, and one group of channels");
  int64_t most_taps = 1;
  for (int64_t phase = 0; phase < window_.phases(); ++phase) most_taps = std::max(most_taps, window_.taps(phase));
  range_channels_ = channels_of_range(channels_, most_taps);
  ranges_ = (channels_ + range_channels_ - 1) / range_channels_;
  if (ranges_ > kMaxCuts / window_.phases()) fail("has too many channels for its strides");
  int64_t column = 0;
  for (int64_t phase = 0; phase < window_.phases(); ++phase) {
    const int64_t taps = window_.taps(phase);
    for (int64_t channel = 0; channel < channels_; channel += range_channels_) {
      bounds_.push_back(column + channel * taps);
    }
    column += channels_ * taps;
  }
  bounds_.push_back(column);
}

void NestedConvTranspose::compute(const ort::Context& context) const {
  WeightView view;
  this->view(context, view);
  if (context.input<float>(kResidual).shape.rank != 0) fail("a transposed convolution adds no residual");
  const Image x = checked("X ", [&] { return Image::read(context.input<float>(kX), x_tiled_, gather_.shape); });
  check_channels(x.size);
  auto phases = checked("", [&] { return plans_.plan_for(window_, x, gather_.shape); });
  const ImageSize size = phases->output(x.size.batch, weight_.rows());
  check_output(size);
  const Image y = Image::write(context, size, false, gather_.shape, spatial_);
  const Tiling tiling = phases->tiling();
  const double cost =
      static_cast<double>(view.blocks * weight_.block_rows()) * static_cast<double>(size.batch * tiling.pixels);
  const int64_t tiles = size.batch * tiling.tiles;
  const Run run{view, std::move(phases), x, y, cut(view), next_run()};
  const int64_t ranges = range_count(tiles, parts(), cost, kMultiplyGrain, true);
  for_ranges(context, tiles, parts(), ranges, [&](int64_t tile, Part outputs) {
    run_task(run, Task{tile / tiling.tiles, tile % tiling.tiles, outputs});
  });
}

// The blocks of each row group in each range of columns, in the memory of the thread that runs the operator: no task
// uses memory of this purpose.
const uint32_t* NestedConvTranspose::cut(const WeightView& view) const {
  const int64_t entries = weight_.groups() * static_cast<int64_t>(bounds_.size());
  // The size that the densest level needs, so that a switch to a denser level allocates nothing.
  auto* const starts = reinterpret_cast<uint32_t*>(scratch(Purpose::starts, weight_.level_count() * entries));
  cut_columns(view.weight, weight_.kind().index_bytes, 0, weight_.groups(), bounds_.data(),
              static_cast<int64_t>(bounds_.size()) - 1, starts);
  return starts;
}

// Computes the phases of one row of remainders at a time, and writes them next to each other.
void NestedConvTranspose::run_task(const Run& run, const Task& task) const {
  const Tiling& tiling = run.phases->tiling();
  const int64_t pitch = tiling.pitch(task.tile);
  const int64_t of_phase = weight_.rows() * pitch;
  const int64_t across = window_.residues(1);
  float* const sums = scratch(Purpose::output, across * of_phase);
  SpmmArgs args{};
  args.weight = run.view.weight;
  args.x_pitch = args.y_pitch = pitch;
  args.pixels = tiling.pixels_of(task.tile);
  args.y_whole = true;
  args.clip = clip_;
  const ImageSize& size = run.y.size;
  for (int64_t first = 0; first < window_.phases(); first += across) {
    for (int64_t i = 0; i < across; ++i) {
      args.y = sums + i * of_phase;
      run_phase(run, task, first + i, args);
    }
    const int64_t down = window_.residue(0, first);
    const int64_t back = window_.residue(2, first);
    const int64_t begin = tiling.first_pixel(task.tile);
    for (int64_t pixel = begin; pixel < begin + args.pixels;) {
      const int64_t column = pixel % run.phases->grid_width();
      const int64_t line = pixel / run.phases->grid_width();
      const int64_t count = std::min(run.phases->grid_width() - column, begin + args.pixels - pixel);
      const int64_t row = line % run.phases->grid_height() * window_.residues(0) + down;
      const int64_t slice = line / run.phases->grid_height() * window_.residues(2) + back;
      const int64_t room = size.width - column * across;
      if (row < size.height && slice < size.depth && room > 0) {
        float* const y = const_cast<float*>(run.y.data) + task.image * run.y.image_floats() +
                         (slice * size.height + row) * size.width + column * across;
        const int64_t end = task.outputs.end * weight_.kernel_rows();
        for (int64_t r = task.outputs.begin * weight_.kernel_rows(); r < end; ++r) {
          const int64_t output = output_of(args.weight, r);
          if (output < 0) continue;
          interleave({sums + output * pitch + pixel - begin, of_phase, count}, across, y + output * size.pixels(),
                     room);
        }
      }
      pixel += count;
    }
  }
}

// The outputs of one phase at the tile's pixels. A phase without taps has only its norms' shifts.
void NestedConvTranspose::run_phase(const Run& run, const Task& task, int64_t phase, SpmmArgs& args) const {
  const ConvPlan* const plan = run.phases->plan(phase);
  const auto cuts = static_cast<int64_t>(bounds_.size());
  const int64_t ranges = plan == nullptr ? 1 : ranges_;
  args.weight.level_count = plan == nullptr ? 0 : run.view.weight.level_count;
  args.ptr_stride = cuts;
  args.sums = ranges == 1 ? nullptr : scratch(Purpose::sums, weight_.packed_rows() * args.x_pitch);
  PackedLevel levels[kMaxLevels];
  args.weight.levels = levels;
  for (int64_t range = 0; range < ranges; ++range) {
    const int64_t at = phase * ranges_ + range;
    for (int32_t l = 0; l < args.weight.level_count; ++l) {
      levels[l] = run.view.levels[l];
      levels[l].ptr = run.starts + l * weight_.groups() * cuts + at;
    }
    if (plan != nullptr) {
      const int64_t begin = range * range_channels_;
      const int64_t end = std::min(begin + range_channels_, channels_);
      const MatrixName name{run.number, task.image, task.tile, window_.same_as(phase) * channels_ + begin};
      const float* const x = plan->direct()
                                 ? run.x.data + run.x.offset(task.image, task.tile) + begin * args.x_pitch
                                 : held_matrix(name, plan->matrix_floats(end - begin), [&](float* matrix) {
                                     plan->gather(gather_.gather, run.x.data + task.image * run.x.image_floats(),
                                                  task.tile, begin, end, matrix);
                                   });
      args.x = x - bounds_[static_cast<size_t>(at)] * args.x_pitch;
    }
    args.first = range == 0;
    args.last = range == ranges - 1;
    kernel_.spmm(args, task.outputs.begin, task.outputs.end);
  }
}

}  // namespace nested_sparse
