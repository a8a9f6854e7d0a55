#include "ort_context.h"

#include <algorithm>
#include <cstring>

namespace nested_sparse::ort {
namespace {

// The message of a failed status. Releases the status.
std::string take_message(const Api& api, OrtStatus* status) {
  std::string message = api.error_message(status);
  api.release_status(status);
  return message;
}

}  // namespace

void Attributes::check(OrtStatus* status, const char* name) const {
  if (status != nullptr) throw Error("attribute '" + std::string(name) + "': " + take_message(api_, status));
}

int64_t Attributes::integer(const char* name) const {
  int64_t value = 0;
  check(api_.attribute_int(info_, name, &value), name);
  return value;
}

int64_t Attributes::integer(const char* name, int64_t absent) const {
  int64_t value = 0;
  OrtStatus* const status = api_.attribute_int(info_, name, &value);
  if (status == nullptr) return value;
  api_.release_status(status);
  return absent;
}

float Attributes::real(const char* name) const {
  float value = 0;
  check(api_.attribute_float(info_, name, &value), name);
  return value;
}

std::string Attributes::text(const char* name) const {
  size_t size = 0;  // counts the final zero
  check(api_.attribute_string(info_, name, nullptr, &size), name);
  std::string value(size, '\0');
  check(api_.attribute_string(info_, name, value.data(), &size), name);
  value.resize(std::strlen(value.c_str()));
  return value;
}

std::vector<uint8_t> Attributes::bytes(const char* name) const {
  size_t size = 0;  // counts a final zero that ONNX Runtime adds
  if (OrtStatus* const status = api_.attribute_string(info_, name, nullptr, &size)) {
    api_.release_status(status);
    return {};
  }
  std::vector<uint8_t> value(size);
  check(api_.attribute_string(info_, name, reinterpret_cast<char*>(value.data()), &size), name);
  value.pop_back();
  return value;
}

std::vector<int64_t> Attributes::integers(const char* name) const {
  size_t size = 0;
  check(api_.attribute_ints(info_, name, nullptr, &size), name);
  std::vector<int64_t> values(size);
  if (size > 0) check(api_.attribute_ints(info_, name, values.data(), &size), name);
  return values;
}

std::vector<int64_t> Attributes::integers(const char* name, size_t count) const {
  std::vector<int64_t> values = integers(name);
  check_count(values.size(), count, name, " integers");
  return values;
}

std::vector<float> Attributes::reals(const char* name) const {
  size_t size = 0;
  if (OrtStatus* const status = api_.attribute_floats(info_, name, nullptr, &size)) {
    api_.release_status(status);
    return {};
  }
  return reals(name, size);
}

std::vector<float> Attributes::reals(const char* name, size_t count) const {
  size_t size = 0;
  check(api_.attribute_floats(info_, name, nullptr, &size), name);
  check_count(size, count, name, " numbers");
  std::vector<float> values(size);
  if (size > 0) check(api_.attribute_floats(info_, name, values.data(), &size), name);
  return values;
}

void Attributes::check_count(size_t count, size_t expected, const char* name, const char* what) const {
  if (count == expected) return;
  throw Error("attribute '" + std::string(name) + "': expected " + std::to_string(expected) + what + ", got " +
              std::to_string(count));
}

int64_t Shape::elements() const {
  int64_t count = 1;
  for (size_t i = 0; i < rank; ++i) count *= size[i];
  return count;
}

std::string Shape::text() const {
  std::string text = "[";
  for (size_t i = 0; i < rank; ++i) text += (i == 0 ? "" : ", ") + std::to_string(size[i]);
  return text + "]";
}

bool Shape::operator==(const Shape& other) const {
  return rank == other.rank && std::equal(size, size + rank, other.size);
}

void Context::check(OrtStatus* status) const {
  if (status != nullptr) throw Error(take_message(api_, status));
}

size_t Context::input_count() const {
  size_t count = 0;
  check(api_.input_count(context_, &count));
  return count;
}

const void* Context::input_data(size_t index, Shape& shape) const {
  const OrtValue* value = nullptr;
  check(api_.input(context_, index, &value));
  if (value == nullptr) return nullptr;
  if (!read_shape(value, shape)) throw Error("input " + std::to_string(index) + ": more than 16 dimensions");
  void* data = nullptr;
  check(api_.tensor_data(const_cast<OrtValue*>(value), &data));
  return data;
}

// False where the shape has more dimensions than `shape` can hold.
bool Context::read_shape(const OrtValue* value, Shape& shape) const {
  if (api_.shape != nullptr) {
    int type = 0;
    const int64_t* dimensions = nullptr;
    check(api_.shape(value, &type, &dimensions, &shape.rank));
    if (shape.rank > kMaxRank) return false;
    std::copy(dimensions, dimensions + shape.rank, shape.size);
    return true;
  }
  OrtTensorTypeAndShapeInfo* info = nullptr;
  check(api_.tensor_info(value, &info));
  OrtStatus* status = api_.dimension_count(info, &shape.rank);
  const bool fits = shape.rank <= kMaxRank;
  if (status == nullptr && fits) status = api_.dimensions(info, shape.size, shape.rank);
  api_.release_tensor_info(info);
  check(status);
  return fits;
}

void* Context::output_data(const Shape& shape, size_t index) const {
  OrtValue* value = nullptr;
  check(api_.output(context_, index, shape.size, shape.rank, &value));
  if (value == nullptr) throw Error("output " + std::to_string(index) + " is not given a name");
  void* data = nullptr;
  check(api_.tensor_data(value, &data));
  return data;
}

void Context::run_parallel(void (*call)(void*, size_t), size_t count, void* data) const {
  check(api_.parallel_for(context_, call, count, 0, data));
}

}  // namespace nested_sparse::ort
