#include "norm.h"

#include <algorithm>
#include <string>

#include "conv_plan.h"

namespace nested_sparse {
namespace {

constexpr double kGrain = 16384;     // values of a task
constexpr int64_t kTogether = 4096;  // values that lie in L1 until the activation has been applied
enum NormInput : size_t { kScale = 2, kShift = 3 };

}  // namespace

NestedNorm::NestedNorm(const ort::Attributes& attributes)
    : clip_{attributes.real("clip_min"), attributes.real("clip_max")},
      outputs_(attributes),
      spatial_(read_spatial(attributes, 3)),
      x_tiled_(read_choice(attributes, "x_tiled", 0, 1, 0) == 1),
      y_tiled_(read_choice(attributes, "y_tiled", 0, 1, 0) == 1),
      shape_(find_gather(isa_choice().isa).shape) {}

void NestedNorm::compute(const ort::Context& context) const {
  const Row row = this->row(context);
  if (x_tiled_ || y_tiled_) return run_images(context, row);
  run_planar(context, row, context.input<float>(kX));
}

NestedNorm::Row NestedNorm::row(const ort::Context& context) const {
  const auto cell = context.input<int64_t>(kLevel);
  if (cell.data == nullptr || cell.shape.elements() != 1) throw ort::Error("NestedNorm: level must be one int64");
  const auto scale = context.input<float>(kScale);
  const auto shift = context.input<float>(kShift);
  if (scale.shape.rank != 2 || !(scale.shape == shift.shape)) {
    throw ort::Error("NestedNorm: scale and shift must be [L, C], got " + scale.shape.text() + " and " +
                     shift.shape.text());
  }
  // Another thread, or the run's own guard (route.h), may lower the level while the graph runs.
  const int64_t level = __atomic_load_n(cell.data, __ATOMIC_RELAXED);
  if (level < 0 || level >= scale.shape.size[0]) {
    throw ort::Error("NestedNorm: level must be 0 to " + std::to_string(scale.shape.size[0] - 1) + ", got " +
                     std::to_string(level));
  }
  const int64_t channels = scale.shape.size[1];
  return Row{scale.data + level * channels, shift.data + level * channels, channels};
}

void NestedNorm::check_channels(const Row& row, int64_t channels) const {
  if (channels == row.channels) return;
  throw ort::Error("NestedNorm: X must have " + std::to_string(row.channels) + " channels, got " +
                   std::to_string(channels));
}

void NestedNorm::run_planar(const ort::Context& context, const Row& row, const ort::Tensor<const float>& x) const {
  const ort::Shape& shape = x.shape;
  if (shape.rank < 2) throw ort::Error("NestedNorm: X must be [N, C, ...], got " + shape.text());
  check_channels(row, shape.size[1]);
  float* const y = context.output(shape);
  const int64_t planes = shape.size[0] * row.channels;
  int64_t plane = 1;
  for (size_t i = 2; i < shape.rank; ++i) plane *= shape.size[i];
  const int64_t together = std::max<int64_t>(kTogether / std::max<int64_t>(plane, 1), 1);
  const int64_t tasks = task_count(planes, static_cast<double>(planes * plane), kGrain);
  context.parallel_for(tasks, [&](int64_t task) {
    const Part part = part_of(planes, tasks, task);
    for (int64_t begin = part.begin; begin < part.end; begin += together) {
      const int64_t end = std::min(begin + together, part.end);
      for (int64_t i = begin; i < end; ++i) {
        const int64_t channel = i % row.channels;
        if (plane == 1) {  // without a call for each value
          y[i] = clip(x.data[i] * row.scale[channel] + row.shift[channel], clip_);
          continue;
        }
        outputs_.scale(plane, x.data + i * plane, row.scale[channel], row.shift[channel], clip_, y + i * plane);
      }
      outputs_.apply((end - begin) * plane, y + begin * plane);
    }
  });
}

void NestedNorm::run_images(const ort::Context& context, const Row& row) const {
  Image x;
  try {
    x = Image::read(context.input<float>(kX), x_tiled_, shape_);
  } catch (const ort::Error& error) {
    throw ort::Error(std::string("NestedNorm: X ") + error.what());
  }
  check_channels(row, x.size.channels);
  const Image y = Image::write(context, x.size, y_tiled_, shape_, spatial_);
  const int64_t tiles = y.size.batch * y.tiling.tiles;
  const int64_t tasks = task_count(tiles, static_cast<double>(y.size.batch * y.image_floats()), kGrain);
  context.parallel_for(tasks, [&](int64_t task) {
    const Part part = part_of(tiles, tasks, task);
    for (int64_t begin = part.begin; begin < part.end;) {
      const int64_t image = begin / y.tiling.tiles;
      const int64_t first = image * y.tiling.tiles;
      const int64_t end = std::min(part.end, first + y.tiling.tiles);
      run_tiles(row, x, y, image, Part{begin - first, end - first});
      begin = end;
    }
  });
}

// A few channels at a time: in a planar image they lie on a few pages, and in a tile side by side.
void NestedNorm::run_tiles(const Row& row, const Image& x, const Image& y, int64_t image, Part tiles) const {
  constexpr int64_t kChannels = 16;
  for (int64_t begin = 0; begin < row.channels; begin += kChannels) {
    const Part channels{begin, std::min(begin + kChannels, row.channels)};
    for (int64_t tile = tiles.begin; tile < tiles.end; ++tile) run_tile(row, x, y, image, tile, channels);
  }
}

void NestedNorm::run_tile(const Row& row, const Image& x, const Image& y, int64_t image, int64_t tile,
                          Part channels) const {
  const int64_t pixels = y.tiling.pixels_of(tile);
  const int64_t from_pitch = x.pitch(tile);
  const int64_t to_pitch = y.pitch(tile);
  const float* const from = x.data + x.offset(image, tile);
  float* const to = const_cast<float*>(y.data) + y.offset(image, tile);
  for (int64_t channel = channels.begin; channel < channels.end; ++channel) {
    float* const at = to + channel * to_pitch;
    outputs_.scale(pixels, from + channel * from_pitch, row.scale[channel], row.shift[channel], clip_, at);
    if (y.tiled) {
      std::fill_n(at + pixels, to_pitch - pixels, 0.0F);
    } else {
      outputs_.apply(pixels, at);
    }
  }
  if (y.tiled) outputs_.apply((channels.end - channels.begin) * to_pitch, to + channels.begin * to_pitch);
}

}  // namespace nested_sparse
