#include "max_pool.h"

#include <string>

#include "scratch.h"

namespace nested_sparse {
namespace {

constexpr double kGrain = 16384;  // outputs of a task

}  // namespace

TiledMaxPool::TiledMaxPool(const ort::Attributes& attributes)
    : geometry_(read_geometry(attributes, read_spatial(attributes, 3))), gather_(find_gather(isa_choice().isa)) {}

void TiledMaxPool::compute(const ort::Context& context) const {
  Image x;
  std::shared_ptr<const ConvPlan> plan;
  try {
    x = Image::read(context.input<float>(0), true, gather_.shape);
    plan = plans_.plan_for(geometry_, x, gather_.shape);
  } catch (const ort::Error& error) {
    throw ort::Error(std::string("TiledMaxPool: X ") + error.what());
  }
  const ImageSize size = plan->output(x.size.batch, x.size.channels);
  const Image y = Image::write(context, size, true, gather_.shape, 2);
  const int64_t tiles = size.batch * y.tiling.tiles;
  const int64_t tasks = task_count(tiles, static_cast<double>(size.batch * y.image_floats()), kGrain);
  context.parallel_for(tasks, [&](int64_t task) {
    const Part part = part_of(tiles, tasks, task);
    for (int64_t i = part.begin; i < part.end; ++i) run_tile(*plan, x, y, i / y.tiling.tiles, i % y.tiling.tiles);
  });
}

// Works on one channel at a time, so that the gathered pixels stay in L1.
void TiledMaxPool::run_tile(const ConvPlan& plan, const Image& x, const Image& y, int64_t image, int64_t tile) const {
  float* const taps = scratch(Purpose::input, plan.matrix_floats(1));
  const int64_t pitch = y.pitch(tile);
  float* to = const_cast<float*>(y.data) + y.offset(image, tile);
  for (int64_t channel = 0; channel < y.size.channels; ++channel, to += pitch) {
    plan.gather(gather_.gather, x.data + image * x.image_floats(), tile, channel, channel + 1, taps);
    gather_.max_rows(taps, plan.taps(), pitch, to);
  }
}

}  // namespace nested_sparse
