#include "scratch.h"

#include <atomic>
#include <cstdlib>
#include <memory>
#include <new>

namespace nested_sparse {
namespace {

constexpr int64_t kAlignment = 64;
// Half a gigabyte. Only a layer needs more whose file claims columns for which it has no blocks.
constexpr int64_t kMaxFloats = int64_t{1} << 27;

std::atomic<int64_t> allocations{0};

struct Free {
  void operator()(float* p) const { std::free(p); }
};

struct Buffer {
  std::unique_ptr<float, Free> data;
  int64_t floats = 0;
};

}  // namespace

int64_t scratch_allocations() {
  return allocations.load(std::memory_order_relaxed);
}

void count_scratch_allocation() {
  allocations.fetch_add(1, std::memory_order_relaxed);
}

float* scratch(Purpose purpose, int64_t floats) {
  thread_local Buffer buffers[kPurposes];
  Buffer& buffer = buffers[static_cast<int>(purpose)];
  if (buffer.floats < floats) {
    buffer.data.reset();
    buffer.floats = 0;
    if (floats > kMaxFloats) throw std::bad_alloc();
    const int64_t nbytes = (floats * static_cast<int64_t>(sizeof(float)) + kAlignment - 1) / kAlignment * kAlignment;
    buffer.data.reset(static_cast<float*>(std::aligned_alloc(kAlignment, static_cast<size_t>(nbytes))));
    if (buffer.data == nullptr) throw std::bad_alloc();
    buffer.floats = floats;
    count_scratch_allocation();
  }
  return buffer.data.get();
}

}  // namespace nested_sparse
