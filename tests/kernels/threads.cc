// Runs the operators from several threads at once, for the thread sanitizer (tools/sanitize.sh): first runs that race
// to check the weight and to plan, levels that differ, a level lowered by another thread, images of two sizes. It
// stands in for ONNX Runtime, whose wheel is built without the sanitizer: what its own thread pool orders by atomics,
// the sanitizer cannot see, and takes for races in our frames. Every output is held against a run on one thread.
#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "conv.h"
#include "linear.h"
#include "max_pool.h"
#include "quantized/conv.h"

struct OrtStatus {
  std::string message;
};
struct OrtValue {
  void* data;
  std::vector<int64_t> dimensions;
};
struct OrtKernelInfo {
  std::map<std::string, std::vector<int64_t>> integers;
};
struct OrtKernelContext {
  std::vector<const OrtValue*> inputs;  // null where absent
  std::vector<float> y;
  OrtValue output;
  int threads;
};

namespace {

using nested_sparse::NestedConv;
using nested_sparse::NestedLinear;
using nested_sparse::Operator;
using nested_sparse::QuantizedConv;
using nested_sparse::QuantizedImage;
using nested_sparse::TiledMaxPool;
namespace ort = nested_sparse::ort;

constexpr int kLevels = 3;
constexpr int64_t kRows = 64;

// Sizes of a node's weight; with `whole`, level 0 keeps all of it.
struct Weight {
  int64_t columns;
  int64_t block_rows;
  bool whole;
};
constexpr Weight kWide{72, 4, false};     // 8 channels by 9 taps
constexpr Weight kDepthwise{9, 1, true};  // a channel's 9 taps

OrtStatus* integers(const OrtKernelInfo* info, const char* name, int64_t* out, size_t* size) {
  const auto found = info->integers.find(name);
  if (found == info->integers.end()) return new OrtStatus{"absent"};
  if (out != nullptr) std::copy(found->second.begin(), found->second.end(), out);
  *size = found->second.size();
  return nullptr;
}

OrtStatus* parallel_for(const OrtKernelContext* context, void (*fn)(void*, size_t), size_t total, size_t, void* data) {
  std::atomic<size_t> next{0};
  const auto work = [&] {
    for (size_t i = next++; i < total; i = next++) fn(data, i);
  };
  std::vector<std::thread> others;
  for (int i = 1; i < context->threads; ++i) others.emplace_back(work);
  work();
  for (std::thread& other : others) other.join();
  return nullptr;
}

// A tensor is its own description.
const OrtValue* value_of(const OrtTensorTypeAndShapeInfo* info) {
  return reinterpret_cast<const OrtValue*>(info);
}

ort::Api stand_in() {
  ort::Api api{};
  api.error_message = [](const OrtStatus* status) { return status->message.c_str(); };
  api.release_status = [](OrtStatus* status) { delete status; };
  api.tensor_data = [](OrtValue* value, void** out) -> OrtStatus* { return *out = value->data, nullptr; };
  api.tensor_info = [](const OrtValue* value, OrtTensorTypeAndShapeInfo** out) -> OrtStatus* {
    *out = reinterpret_cast<OrtTensorTypeAndShapeInfo*>(const_cast<OrtValue*>(value));
    return nullptr;
  };
  api.release_tensor_info = [](OrtTensorTypeAndShapeInfo*) {};
  api.dimension_count = [](const OrtTensorTypeAndShapeInfo* info, size_t* out) -> OrtStatus* {
    return *out = value_of(info)->dimensions.size(), nullptr;
  };
  api.dimensions = [](const OrtTensorTypeAndShapeInfo* info, int64_t* out, size_t count) -> OrtStatus* {
    return std::copy_n(value_of(info)->dimensions.begin(), count, out), nullptr;
  };
  api.attribute_ints = integers;
  api.attribute_int = [](const OrtKernelInfo* info, const char* name, int64_t* out) {
    size_t size = 0;
    return integers(info, name, out, &size);
  };
  api.attribute_float = [](const OrtKernelInfo*, const char* name, float* out) -> OrtStatus* {
    return *out = std::strcmp(name, "clip_min") == 0 ? -1000.0F : 1000.0F, nullptr;
  };
  // Scales of the levels; of a norm one for each column, so each linear layer has one.
  api.attribute_floats = [](const OrtKernelInfo* info, const char* name, float* out, size_t* size) -> OrtStatus* {
    const bool of_norm = std::strncmp(name, "norm_", 5) == 0;
    *size = of_norm ? static_cast<size_t>(info->integers.at("columns")[0]) : kLevels;
    for (size_t i = 0; out != nullptr && i < *size; ++i) out[i] = 800.0F + static_cast<float>(i);
    return nullptr;
  };
  api.attribute_string = [](const OrtKernelInfo*, const char* name, char* out, size_t* size) -> OrtStatus* {
    if (std::strcmp(name, "layer") != 0) return new OrtStatus{"absent"};
    if (out != nullptr) std::memcpy(out, "layer", 6);
    return *size = 6, nullptr;
  };
  api.input_count = [](const OrtKernelContext* context, size_t* out) -> OrtStatus* {
    return *out = context->inputs.size(), nullptr;
  };
  api.input = [](const OrtKernelContext* context, size_t index, const OrtValue** out) -> OrtStatus* {
    return *out = context->inputs[index], nullptr;
  };
  api.output = [](OrtKernelContext* context, size_t, const int64_t* dimensions, size_t count, OrtValue** out) {
    int64_t elements = 1;
    for (size_t i = 0; i < count; ++i) elements *= dimensions[i];
    context->y.assign(static_cast<size_t>(elements), 0.0F);
    context->output = OrtValue{context->y.data(), {dimensions, dimensions + count}};
    return *out = &context->output, static_cast<OrtStatus*>(nullptr);
  };
  api.parallel_for = parallel_for;
  return api;
}

const ort::Api kApi = stand_in();

// Level l has every kLevels-th column of each group, from l on, or level 0 all; parts 4 KB apart at least, so that all
// begin aligned.
std::vector<float> segment_of(const Weight& weight, int level, OrtKernelInfo& info) {
  const int64_t groups = kRows / weight.block_rows;
  const int64_t step = weight.whole ? 1 : kLevels;
  const int64_t columns = weight.whole && level > 0 ? 0 : weight.columns / step;
  const int64_t blocks = groups * columns;
  const int64_t begins[] = {0, 4096, 16384, 65536};
  std::vector<float> segment(32768);
  auto* bytes = reinterpret_cast<uint8_t*>(segment.data());
  for (int64_t g = 0; g <= groups; ++g) reinterpret_cast<uint32_t*>(bytes)[g] = static_cast<uint32_t>(g * columns);
  for (int64_t j = 0; j < blocks; ++j) {
    reinterpret_cast<uint16_t*>(bytes + begins[1])[j] = static_cast<uint16_t>(j % columns * step + level);
  }
  auto* values = reinterpret_cast<float*>(bytes + begins[2]);
  for (int64_t i = 0; i < blocks * weight.block_rows; ++i) values[i] = static_cast<float>(i % 13) - 6.0F;
  auto* norm = reinterpret_cast<float*>(bytes + begins[3]);
  for (int64_t r = 0; r < 2 * kRows; ++r) norm[r] = static_cast<float>(level + 1 + r);
  info.integers["blocks"].push_back(blocks);
  for (int64_t begin : begins) info.integers["offsets"].push_back(begin);
  return segment;
}

constexpr int64_t kScales = 66560;  // where level 0 of int8 weights has the scales of rows, behind the norm

// The same of int8 weights. Columns are whole quads; a float of `segment_of` gives way to the four weights of a quad.
std::vector<float> quads_of(const Weight& weight, int level, OrtKernelInfo& info) {
  std::vector<float> segment = segment_of(weight, level, info);
  auto* bytes = reinterpret_cast<uint8_t*>(segment.data());
  int64_t& blocks = info.integers["blocks"].back();
  for (int64_t i = 0; i < blocks * weight.block_rows; ++i) bytes[16384 + i] = static_cast<uint8_t>(i % 251);
  for (int64_t g = 0; g <= kRows / weight.block_rows; ++g) reinterpret_cast<uint32_t*>(bytes)[g] /= 4;
  for (int64_t r = 0; r < kRows; ++r) reinterpret_cast<float*>(bytes + kScales)[r] = 0.01F;
  blocks /= 4;
  return segment;
}

// A tensor with planes of bytes (quantized/image.h). Its length is a whole number of floats.
std::vector<float> byte_image(const nested_sparse::ImageSize& size) {
  const QuantizedImage image = QuantizedImage::placed(size, {1, 1});
  std::vector<float> tensor(static_cast<size_t>(64 + size.batch * image.image_bytes) / 4);
  auto* bytes = reinterpret_cast<uint8_t*>(tensor.data());
  for (size_t i = 64; i < tensor.size() * 4; ++i) bytes[i] = static_cast<uint8_t>(i * 7);
  const int32_t numbers[] = {static_cast<int32_t>(size.batch),
                             static_cast<int32_t>(size.channels),
                             static_cast<int32_t>(size.height),
                             static_cast<int32_t>(size.width),
                             1,
                             1,
                             static_cast<int32_t>(size.depth)};
  const float scale = 0.5F;
  std::memcpy(bytes, "ns8image", 8);
  std::memcpy(bytes + 8, numbers, sizeof numbers);
  std::memcpy(bytes + 36, &scale, sizeof scale);
  std::memset(bytes + 40, 0, 24);
  return tensor;
}

// Floats or bytes: a comparison of floats would call a NaN another value than itself.
bool same(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

struct Node {
  OrtKernelInfo info;
  std::vector<std::vector<float>> segments;
  std::vector<OrtValue> tensors;

  // `more`: attributes beside those that all nodes have.
  Node(const Weight& weight, const std::map<std::string, std::vector<int64_t>>& more) : info{more} {
    info.integers.insert({{"rows", {kRows}},
                          {"columns", {weight.columns}},
                          {"block_rows", {weight.block_rows}},
                          {"index_bytes", {2}},
                          {"permutation_offset", {-1}},
                          {"kernel_shape", {3, 3}},
                          {"strides", {1, 1}},
                          {"pads", {1, 1, 1, 1}},
                          {"dilations", {1, 1}}});
    const bool int8 = info.integers.count("value_bytes") > 0;
    for (int level = 0; level < kLevels; ++level)
      segments.push_back((int8 ? quads_of : segment_of)(weight, level, info));
    for (auto& segment : segments) tensors.push_back({segment.data(), {static_cast<int64_t>(segment.size() * 4)}});
  }

  std::vector<float> run(const Operator& op, const OrtValue& x, int64_t* level, int threads) const {
    const OrtValue cell{level, {}};
    OrtKernelContext context{{&x, &cell, nullptr}, {}, {}, threads};
    for (const OrtValue& tensor : tensors) context.inputs.push_back(&tensor);
    op.compute(ort::Context(kApi, &context));
    return context.y;
  }
};

// Whether four threads with levels of their own, and two that share a cell, compute what one thread does. A further
// thread lowers and raises the level in the cell (here the level may rise: every operator is run alone).
template <class Op>
bool agree(const Node& node, const std::vector<OrtValue>& inputs) {
  const ort::Attributes attributes(kApi, &node.info);
  std::vector<std::vector<std::vector<float>>> expected(inputs.size());
  for (size_t i = 0; i < inputs.size(); ++i) {
    for (int64_t level = 0; level < kLevels; ++level) {
      expected[i].push_back(node.run(Op(attributes), inputs[i], &level, 1));
    }
  }
  const Op op(attributes);
  std::atomic<int> wrong{0};
  std::atomic<bool> done{false};
  int64_t shared = kLevels - 1;
  std::vector<std::thread> runners;
  for (int64_t runner = 0; runner < 6; ++runner) {
    runners.emplace_back([&, runner] {
      for (int64_t turn = 0; turn < 30; ++turn) {
        const size_t i = static_cast<size_t>(runner + turn / 5) % inputs.size();
        int64_t own = (runner + turn) % kLevels;
        const bool shares = runner >= 4;
        const std::vector<float> y = node.run(op, inputs[i], shares ? &shared : &own, 2);
        bool right = same(y, expected[i][own]);
        for (int level = 0; shares && level < kLevels; ++level) right |= same(y, expected[i][level]);
        wrong += !right;
      }
    });
  }
  std::thread lowering([&] {
    for (int64_t level = 0; !done; level = (level + 1) % kLevels) __atomic_store_n(&shared, level, __ATOMIC_RELAXED);
  });
  for (std::thread& runner : runners) runner.join();
  done = true;
  lowering.join();
  if (wrong != 0) std::fprintf(stderr, "%d outputs differ from those of one thread\n", wrong.load());
  return wrong == 0;
}

// Whether a depthwise convolution and a pool over tiled images agree on several threads. The images are those that a
// convolution makes of `inputs`.
bool agree_tiled(const Node& plain, const std::vector<OrtValue>& inputs) {
  const Node writer(kWide, {{"y_tiled", {1}}});
  int64_t level = 0;
  std::vector<std::vector<float>> images;
  std::vector<OrtValue> tiled;
  for (const OrtValue& x : inputs) {
    images.push_back(writer.run(NestedConv(ort::Attributes(kApi, &writer.info)), x, &level, 1));
    tiled.push_back({images.back().data(), {static_cast<int64_t>(images.back().size())}});
  }
  const Node depthwise(kDepthwise, {{"groups", {kRows}}, {"x_tiled", {1}}, {"y_tiled", {1}}});
  return agree<NestedConv>(depthwise, tiled) && agree<TiledMaxPool>(plain, tiled);
}

// Whether convolutions of bytes agree that read their images in place, and that gather them; volumes, too.
bool agree_quantized() {
  std::vector<float> images[] = {byte_image({1, 8, 18, 20}), byte_image({2, 8, 9, 16})};
  std::vector<OrtValue> inputs;
  for (auto& image : images) inputs.push_back({image.data(), {static_cast<int64_t>(image.size() * 4)}});
  std::map<std::string, std::vector<int64_t>> more{
      {"value_bytes", {1}}, {"scale_offset", {kScales}}, {"y_zero", {3, 100, 7}}, {"y_border", {1}}, {"y_gap", {1}}};
  const bool in_place = agree<QuantizedConv>(Node(kWide, more), inputs);
  more["strides"] = {2, 2};
  const bool gathered = agree<QuantizedConv>(Node(kWide, more), inputs);
  std::vector<float> volume = byte_image({1, 8, 6, 20, 3});
  more["spatial_dimensions"] = {3};
  more["kernel_shape"] = {1, 3, 3};
  more["strides"] = more["dilations"] = {1, 1, 1};
  more["pads"] = {0, 1, 1, 0, 1, 1};
  const bool slices =
      agree<QuantizedConv>(Node(kWide, more), {{volume.data(), {static_cast<int64_t>(volume.size() * 4)}}});
  return in_place && gathered && slices;
}

}  // namespace

int main() {
  const Node node(kWide, {});
  std::vector<float> x(200 * kWide.columns);
  for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i % 7) - 3.0F;
  const bool linear = agree<NestedLinear>(node, {{x.data(), {1, kWide.columns}}, {x.data(), {200, kWide.columns}}});
  const bool conv = agree<NestedConv>(node, {{x.data(), {1, 8, 18, 20}}, {x.data(), {2, 8, 9, 16}}});
  const bool groups = agree<NestedConv>(Node(kWide, {{"groups", {2}}}), {{x.data(), {1, 16, 18, 20}}});
  const bool tiled = agree_tiled(node, {{x.data(), {1, 8, 18, 20}}, {x.data(), {2, 8, 9, 16}}});
  const bool quantized = agree_quantized();
  const bool right = linear && conv && groups && tiled && quantized;
  std::printf("operators on several threads: %s\n", right ? "right, no race" : "wrong");
  return right ? 0 : 1;
}
