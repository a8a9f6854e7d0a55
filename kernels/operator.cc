#include "operator.h"

#include <algorithm>
#include <atomic>
#include <string>
#include <thread>

#include "route.h"

namespace nested_sparse {
namespace {

constexpr double kActivateGrain = 16384;  // values of a task, which take about 10 µs

}  // namespace

NestedOperator::NestedOperator(const ort::Attributes& attributes)
    : weight_(attributes), clip_{attributes.real("clip_min"), attributes.real("clip_max")} {}

void NestedOperator::fail(const std::string& message) const {
  throw ort::Error("layer '" + weight_.layer() + "': " + message);
}

void NestedOperator::view(const ort::Context& context, WeightView& out) const {
  const size_t level_count = context.input_count() - kFirstSegment;
  if (level_count != static_cast<size_t>(weight_.level_count())) {
    fail("expected " + std::to_string(weight_.level_count()) + " segment inputs, got " + std::to_string(level_count));
  }
  const auto level = context.input<int64_t>(kLevel);
  if (level.data == nullptr || level.shape.elements() != 1) fail("level must be one int64");
  const int64_t now = arrive(level.data, weight_.layer().c_str());
  weight_.view(
      now,
      [&](size_t l) {
        const auto bytes = context.input<uint8_t>(kFirstSegment + l);
        return Segment{bytes.data, bytes.data == nullptr ? 0 : bytes.shape.elements()};
      },
      out);
}

const float* NestedOperator::residual(const ort::Context& context, const ort::Shape& shape, const char* name) const {
  const auto tensor = context.input<float>(kResidual);
  if (tensor.data == nullptr && tensor.shape.rank == 0) return nullptr;
  if (!(tensor.shape == shape)) {
    fail(std::string("the ") + name + " " + shape.text() + ", got " + tensor.shape.text());
  }
  return tensor.data;
}

// The processor's count of threads: ONNX Runtime does not tell operators how many threads the session has.
int64_t core_count() {
  static const int64_t count = std::max<int64_t>(std::thread::hardware_concurrency(), 1);
  return count;
}

int64_t task_count(int64_t units, double cost, double grain) {
  // Four tasks for each core balance the load where another process uses one of the cores. More tasks make the rows of
  // pixels in early layers too short: 16 tasks in place of 8 cost ResNet-50 on one thread 3 %.
  static const int64_t most = std::clamp<int64_t>(4 * core_count(), 8, 128);
  auto wanted = static_cast<int64_t>(std::min(cost / grain, static_cast<double>(most)));
  // Three tasks on two cores take as long as four of the same size.
  if (wanted > core_count()) wanted -= wanted % core_count();
  return std::clamp<int64_t>(wanted, 1, std::max<int64_t>(units, 1));
}

uint64_t next_run() {
  static std::atomic<uint64_t> count{0};
  return count.fetch_add(1, std::memory_order_relaxed) + 1;
}

int64_t range_count(int64_t tiles, int64_t parts, double cost, double grain, bool gathers) {
  const int64_t ranges = task_count(tiles * parts, cost, grain);
  if (!gathers || tiles >= 4 * ranges) return ranges;
  return std::min(ranges, tiles < 2 * core_count() ? core_count() : 2 * core_count());
}

Outputs::Outputs(const ort::Attributes& attributes)
    : activation(static_cast<Activation>(read_choice(attributes, "activation_function", 0, kActivations - 1, 0))),
      kernels(find_activate(isa_choice().isa)) {}

void Outputs::apply(const ort::Context& context, int64_t count, float* y) const {
  if (plain()) return;
  const int64_t tasks = task_count(count, static_cast<double>(count), kActivateGrain);
  context.parallel_for(tasks, [&](int64_t task) {
    const Part part = part_of(count, tasks, task);
    apply(part.end - part.begin, y + part.begin);
  });
}

int64_t read_choice(const ort::Attributes& attributes, const char* name, int64_t least, int64_t most, int64_t absent) {
  const int64_t value = attributes.integer(name, absent);
  if (value < least || value > most) {
    throw ort::Error("attribute '" + std::string(name) + "': expected " + std::to_string(least) + " to " +
                     std::to_string(most) + ", got " + std::to_string(value));
  }
  return value;
}

}  // namespace nested_sparse
