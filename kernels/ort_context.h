// Typed access to what ONNX Runtime passes to an operator: attributes when it is made, tensors at each run. Failures
// are thrown.
#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
#include <stdexcept>
#include <string>
#include <vector>

#include "denormals.h"
#include "ort_api.h"

namespace nested_sparse::ort {

// A failure that is reported to ONNX Runtime as an OrtStatus of code kInvalidArgument.
struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Attributes of a node.
class Attributes {
 public:
  Attributes(const Api& api, const OrtKernelInfo* info) : api_(api), info_(info) {}
  int64_t integer(const char* name) const;
  int64_t integer(const char* name, int64_t absent) const;  // `absent` where there is no such attribute
  float real(const char* name) const;
  std::string text(const char* name) const;
  std::vector<uint8_t> bytes(const char* name) const;  // empty where there is no such attribute
  std::vector<float> reals(const char* name) const;    // empty where there is no such attribute
  std::vector<float> reals(const char* name, size_t count) const;
  std::vector<int64_t> integers(const char* name) const;  // empty where the list is empty
  std::vector<int64_t> integers(const char* name, size_t count) const;

 private:
  void check(OrtStatus* status, const char* name) const;
  void check_count(size_t count, size_t expected, const char* name, const char* what) const;
  const Api& api_;
  const OrtKernelInfo* info_;
};

constexpr size_t kMaxRank = 16;

struct Shape {
  size_t rank = 0;
  int64_t size[kMaxRank] = {};
  int64_t elements() const;
  std::string text() const;
  bool operator==(const Shape& other) const;
};

// A tensor in memory; `data` is null where the optional input is absent.
template <class T>
struct Tensor {
  T* data = nullptr;
  Shape shape;
};

// One run of an operator. ONNX Runtime checks the element types of tensors, which the operator has declared.
class Context {
 public:
  Context(const Api& api, OrtKernelContext* context) : api_(api), context_(context) {}
  size_t input_count() const;
  template <class T>
  Tensor<const T> input(size_t index) const {
    Tensor<const T> tensor;
    tensor.data = static_cast<const T*>(input_data(index, tensor.shape));
    return tensor;
  }
  // Memory for an output, which is the only one of most operators.
  template <class T = float>
  T* output(const Shape& shape, size_t index = 0) const {
    return static_cast<T*>(output_data(shape, index));
  }

  // Calls task(i) for i in 0 .. count - 1 on the session's threads, and returns when all have ended. `task` must not
  // call this. The first exception of a task is thrown here at the end; tasks that begin after that exception do
  // nothing.
  template <class Task>
  void parallel_for(int64_t count, const Task& task) const {
    if (count == 1) task(int64_t{0});
    if (count <= 1) return;
    Tasks<Task> tasks{task, {false}, nullptr};
    run_parallel(&Tasks<Task>::call, static_cast<size_t>(count), &tasks);
    if (tasks.error) std::rethrow_exception(tasks.error);
  }

 private:
  // Keeps exceptions, such as std::bad_alloc from scratch(), inside the task: one that left a task on one of ONNX
  // Runtime's threads would end the process.
  template <class Task>
  struct Tasks {
    const Task& task;
    std::atomic<bool> failed{false};
    std::exception_ptr error;

    static void call(void* data, size_t index) {
      auto& self = *static_cast<Tasks*>(data);
      if (self.failed.load(std::memory_order_relaxed)) return;
      const FlushDenormals flush;
      try {
        self.task(static_cast<int64_t>(index));
      } catch (...) {
        if (!self.failed.exchange(true)) self.error = std::current_exception();
      }
    }
  };

  const void* input_data(size_t index, Shape& shape) const;
  bool read_shape(const OrtValue* value, Shape& shape) const;
  void* output_data(const Shape& shape, size_t index) const;
  void run_parallel(void (*call)(void*, size_t), size_t count, void* data) const;
  void check(OrtStatus* status) const;
  const Api& api_;
  OrtKernelContext* context_;
};

}  // namespace nested_sparse::ort
