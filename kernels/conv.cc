#include "conv.h"

#include <algorithm>

#include "scratch.h"

namespace nested_sparse {
namespace {

constexpr int64_t kMaxGeometry = 1 << 20;
constexpr double kCopyGrain = 16384;        // floats copied by a task
constexpr double kMultiplyGrain = 400000;   // multiply-adds of a task: some 10 µs
constexpr int64_t kSweepBytes = 512 << 10;  // of the image, read again by every row group: half of a 1 MB L2

void read_pair(const ort::Attributes& attributes, const char* name, int64_t least, int64_t (&pair)[2]) {
  const std::vector<int64_t> values = attributes.integers(name, 2);
  for (int axis = 0; axis < 2; ++axis) {
    if (values[axis] < least || values[axis] > kMaxGeometry) {
      throw ort::Error("attribute '" + std::string(name) + "': expected values of " + std::to_string(least) +
                       " or more, got " + std::to_string(values[axis]));
    }
    pair[axis] = values[axis];
  }
}

ConvGeometry read_geometry(const ort::Attributes& attributes) {
  ConvGeometry geometry{};
  read_pair(attributes, "kernel_shape", 1, geometry.kernel);
  read_pair(attributes, "strides", 1, geometry.stride);
  read_pair(attributes, "dilations", 1, geometry.dilation);
  const std::vector<int64_t> pads = attributes.integers("pads", 4);
  for (int axis = 0; axis < 2; ++axis) {
    geometry.pad_before[axis] = pads[axis];
    geometry.pad_after[axis] = pads[2 + axis];
  }
  for (int64_t pad : pads) {
    if (pad < 0 || pad > kMaxGeometry) {
      throw ort::Error("attribute 'pads': expected values of 0 or more, got " + std::to_string(pad));
    }
  }
  return geometry;
}

}  // namespace

NestedConv::NestedConv(const ort::Attributes& attributes)
    : Operator(attributes),
      geometry_(read_geometry(attributes)),
      channels_(weight_.columns() / (geometry_.kernel[0] * geometry_.kernel[1])),
      kernel_(find_kernel(false, isa_choice().isa, weight_.block_rows(), weight_.index_bytes(), weight_.banks())) {
  if (channels_ * geometry_.kernel[0] * geometry_.kernel[1] != weight_.columns()) {
    fail("columns must be a multiple of the window's " + std::to_string(geometry_.kernel[0] * geometry_.kernel[1]) +
         " taps, got " + std::to_string(weight_.columns()));
  }
}

std::shared_ptr<const ConvPlan> NestedConv::plan_for(int64_t height, int64_t width) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (plan_ == nullptr || !plan_->matches(height, width)) {
    try {
      plan_ = std::make_shared<const ConvPlan>(geometry_, channels_, height, width, kernel_.lanes);
    } catch (const ort::Error& error) {
      fail(error.what());
    }
    count_scratch_allocation();
  }
  return plan_;
}

void NestedConv::compute(const ort::Context& context) const {
  WeightView view;
  this->view(context, view);
  const auto x = context.input<float>(kX);
  if (x.shape.rank != 4 || x.shape.size[1] != channels_) {
    fail("X must be [N, " + std::to_string(channels_) + ", H, W], got " + x.shape.text());
  }
  const auto plan = plan_for(x.shape.size[2], x.shape.size[3]);
  const int64_t batch = x.shape.size[0];
  const ort::Shape shape{4, {batch, weight_.rows(), plan->output_height(), plan->output_width()}};
  const float* residual = this->residual(context, shape);
  float* y = context.output(shape);

  const int64_t y_pitch = plan->output_height() * plan->output_width();
  SpmmArgs args{view.weight, nullptr, plan->offset(), plan->pixels(), plan->places(), residual, y, y_pitch, clip_};
  for (int64_t n = 0; n < batch; ++n) {
    args.x = planes_of(context, *plan, x.data + n * channels_ * x.shape.size[2] * x.shape.size[3]);
    run_image(context, args, view.blocks);
    args.y += weight_.rows() * y_pitch;
    if (residual != nullptr) args.residual += weight_.rows() * y_pitch;
  }
}

const float* NestedConv::planes_of(const ort::Context& context, const ConvPlan& plan, const float* image) const {
  if (!plan.copies()) return image;
  float* const planes = scratch(Purpose::input, plan.scratch_floats());
  plan.clear_slack(planes);
  const int64_t tasks = task_count(channels_, static_cast<double>(plan.scratch_floats()), kCopyGrain);
  context.parallel_for(tasks, [&](int64_t task) {
    const Part channels = part_of(channels_, tasks, task);
    plan.copy_channels(image, planes, channels.begin, channels.end);
  });
  return planes;
}

// Tasks are ranges of pixels, and, where these are few, chunks of row groups. A task sweeps over as many pixels at a
// time as stay in the second cache while every row group reads them; wide sweeps write y in long runs, which is what
// the layers of few channels and many pixels wait for (ResNet-50 at 5.38 %: 15.5 ms with sweeps of one tile, 14.0 ms
// with 512 KB).
void NestedConv::run_image(const ort::Context& context, const SpmmArgs& args, int64_t blocks) const {
  const int64_t vectors = (args.pixels + kernel_.lanes - 1) / kernel_.lanes;
  const int64_t tiles = (vectors + kernel_.vectors - 1) / kernel_.vectors;
  const double cost = static_cast<double>(blocks * weight_.block_rows()) * static_cast<double>(args.pixels);
  const int64_t tasks = task_count(tiles * weight_.spmm_groups(), cost, kMultiplyGrain);
  const int64_t chunks = tasks <= tiles ? 1 : std::min((tasks + tiles - 1) / tiles, weight_.spmm_groups());
  const int64_t tile_tasks = chunks > 1 ? tiles : std::min(tasks, tiles);
  const int64_t vector_bytes = channels_ * kernel_.lanes * static_cast<int64_t>(sizeof(float));
  const int64_t sweep = std::max<int64_t>(kSweepBytes / vector_bytes, kernel_.vectors);
  context.parallel_for(tile_tasks * chunks, [&](int64_t task) {
    const Part part = part_of(vectors, tile_tasks, task % tile_tasks);
    const Part groups = part_of(weight_.spmm_groups(), chunks, task / tile_tasks);
    const int64_t sweeps = (part.end - part.begin + sweep - 1) / sweep;
    for (int64_t i = 0; i < sweeps; ++i) {
      const Part range = part_of(part.end - part.begin, sweeps, i);
      kernel_.spmm(args, groups.begin, groups.end, part.begin + range.begin, part.begin + range.end);
    }
  });
}

}  // namespace nested_sparse
