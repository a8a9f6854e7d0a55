#include "input_norm.h"

#include "operator.h"
#include "scratch.h"

namespace nested_sparse {
namespace {

constexpr double kGrain = 16384;  // floats normalised by a task

}  // namespace

InputNorm::InputNorm(const ort::Attributes& attributes, int64_t columns)
    : scale_(attributes.reals("norm_scale")), loop_(find_normalize(isa_choice().isa)) {
  if (scale_.empty()) return;
  scale_ = attributes.reals("norm_scale", columns);
  shift_ = attributes.reals("norm_shift", columns);
  epsilon_ = attributes.real("norm_epsilon");
}

const float* InputNorm::of(const ort::Context& context, const float* x, int64_t count) const {
  if (scale_.empty()) return x;
  const int64_t columns = static_cast<int64_t>(scale_.size());
  float* const y = scratch(Purpose::normed, count * columns);
  const int64_t tasks = task_count(count, static_cast<double>(count * columns), kGrain);
  context.parallel_for(tasks, [&](int64_t task) {
    const Part rows = part_of(count, tasks, task);
    const int64_t first = rows.begin * columns;
    loop_.run({x + first, rows.end - rows.begin, columns, scale_.data(), shift_.data(), epsilon_, y + first});
  });
  return y;
}

}  // namespace nested_sparse
