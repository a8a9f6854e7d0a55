// Levels: runs a checkpoint at each of its levels with ONNX Runtime's C++ interface, and nothing of our Python package.
//
//   levels MODEL.safetensors LIBRARY.so FOLDER
//
// "Step" is one of nested_sparse/FORMAT.md, "The graph". Each input has the shape of the example in the file. Its bytes
// are those of FOLDER/{name}.raw, or zeros. Each output goes to FOLDER/{name}.level{l}.raw, and a line of it to stdout.
// Only offsets are checked here; FORMAT.md lists the other checks of a reader.
#include <fcntl.h>
#include <onnxruntime_cxx_api.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <vector>

using nlohmann::json;

// The types of numpy's names, and bytes of an element.
const std::map<std::string, std::pair<ONNXTensorElementDataType, size_t>> kTypes = {
    {"float32", {ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, 4}},  {"float16", {ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16, 2}},
    {"float64", {ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE, 8}}, {"bfloat16", {ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16, 2}},
    {"int64", {ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64, 8}},    {"int32", {ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32, 4}},
    {"uint8", {ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8, 1}},    {"int8", {ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8, 1}},
    {"bool", {ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL, 1}}};

// A file in memory, read-only, from a page's start. It stays there until the process ends.
struct Mapped {
  explicit Mapped(const std::string& path) {
    const int file = open(path.c_str(), O_RDONLY);
    struct stat status{};
    if (file < 0 || fstat(file, &status) != 0) throw std::runtime_error(path + ": " + std::strerror(errno));
    size = static_cast<uint64_t>(status.st_size);
    void* found = mmap(nullptr, size, PROT_READ, MAP_SHARED, file, 0);
    close(file);
    if (found == MAP_FAILED) throw std::runtime_error(path + ": cannot be mapped: " + std::strerror(errno));
    data = static_cast<uint8_t*>(found);
  }
  uint8_t* range(uint64_t begin, uint64_t end) const {
    if (begin > end || end > size) throw std::runtime_error("the file is shorter than its header says");
    return data + begin;
  }
  uint8_t* data;
  uint64_t size;
};

struct Checkpoint {
  explicit Checkpoint(const std::string& path) : file(path) {
    uint64_t header_nbytes = 0;
    std::memcpy(&header_nbytes, file.range(0, 8), 8);  // step 1
    if (header_nbytes > file.size - 8) throw std::runtime_error(path + ": no checkpoint: its header does not end");
    const uint64_t begin = 8 + header_nbytes;
    const json tensors = json::parse(file.data + 8, file.data + begin);  // step 2
    metadata = json::parse(tensors.at("__metadata__").at("nested_sparse").get<std::string>());
    const uint64_t first = begin + tensors.at("graph").at("data_offsets").at(0).get<uint64_t>();  // step 3
    graph_nbytes = metadata.at("graph_nbytes");
    graph = file.range(first, first + graph_nbytes);
    std::vector<uint64_t> begins(metadata.at("levels").size(), UINT64_MAX);  // step 4
    std::vector<uint64_t> ends(begins.size(), 0);
    for (const auto& [name, tensor] : tensors.items()) {
      if (name == "__metadata__" || name == "graph") continue;
      const size_t level_at = name.rfind("/level", name.rfind('/') - 1) + 6;
      const size_t level = std::stoul(name.substr(level_at));
      const json& offsets = tensor.at("data_offsets");
      begins.at(level) = std::min(begins[level], begin + offsets.at(0).get<uint64_t>());
      ends.at(level) = std::max(ends[level], begin + offsets.at(1).get<uint64_t>());
    }
    for (size_t level = 0; level < begins.size(); level++) {
      segments.push_back({file.range(begins[level], ends[level]), ends[level] - begins[level]});
    }
  }
  Mapped file;
  json metadata;
  uint8_t* graph;
  uint64_t graph_nbytes;
  std::vector<std::pair<uint8_t*, uint64_t>> segments;
};

void run_levels(const std::string& path, const char* library, const std::string& folder) {
  const Checkpoint checkpoint(path);
  const json& metadata = checkpoint.metadata;
  Ort::Env env(ORT_LOGGING_LEVEL_WARNING, "levels");
  Ort::SessionOptions options;  // step 5
  options.SetIntraOpNumThreads(1);
  options.AddConfigEntry("session.set_denormal_as_zero", "1");
  options.RegisterCustomOpsLibrary(library);
  Ort::Session session(env, checkpoint.graph, checkpoint.graph_nbytes, options);  // step 6

  const auto memory = Ort::MemoryInfo::CreateCpu(OrtDeviceAllocator, OrtMemTypeDefault);
  std::vector<std::string> names;
  std::vector<Ort::Value> values;
  std::vector<std::vector<char>> arrays;  // of the inputs; a value is a view
  for (const json& input : metadata.at("inputs")) {
    const auto shape = input.at("example_shape").get<std::vector<int64_t>>();
    const auto [type, item_nbytes] = kTypes.at(input.at("dtype"));
    size_t nbytes = item_nbytes;
    for (const int64_t size : shape) nbytes *= static_cast<size_t>(size);
    names.push_back(input.at("name"));
    std::vector<char>& array = arrays.emplace_back(nbytes, 0);
    std::ifstream raw(folder + "/" + names.back() + ".raw", std::ios::binary);
    const bool fits = !raw || (raw.read(array.data(), nbytes) && raw.peek() == EOF);
    if (!fits) throw std::runtime_error(names.back() + ".raw: expected " + std::to_string(nbytes) + " bytes");
    values.push_back(Ort::Value::CreateTensor(memory, array.data(), nbytes, shape.data(), shape.size(), type));
  }
  int64_t level = 0;  // what `__level__` is bound to; operators read it here
  names.emplace_back("__level__");
  values.push_back(Ort::Value::CreateTensor(memory, &level, 1, nullptr, 0));
  auto segments = checkpoint.segments;
  segments.resize(session.GetInputCount() - names.size(), {checkpoint.graph, 0});  // empty: a slice has lost it
  for (size_t i = 0; i < segments.size(); i++) {
    const auto size = static_cast<int64_t>(segments[i].second);
    names.push_back("__segment_" + std::to_string(i) + "__");
    values.push_back(Ort::Value::CreateTensor(memory, segments[i].first, segments[i].second, &size, 1));
  }
  std::vector<std::string> output_names;
  for (const json& output : metadata.at("outputs")) output_names.push_back(output.at("name"));
  std::vector<const char*> in, out;
  for (const std::string& name : names) in.push_back(name.c_str());
  for (const std::string& name : output_names) out.push_back(name.c_str());

  for (; level < static_cast<int64_t>(checkpoint.segments.size()); level++) {  // step 7
    const auto results = session.Run(Ort::RunOptions(), in.data(), values.data(), in.size(), out.data(), out.size());
    for (size_t i = 0; i < results.size(); i++) {
      const size_t count = results[i].GetTensorTypeAndShapeInfo().GetElementCount();
      const size_t nbytes = count * kTypes.at(metadata.at("outputs").at(i).at("dtype")).second;
      const char* data = results[i].GetTensorData<char>();
      std::printf("level %d: %s, %zu values\n", static_cast<int>(level), out[i], count);
      const std::string to = folder + "/" + output_names[i] + ".level" + std::to_string(level) + ".raw";
      if (!std::ofstream(to, std::ios::binary).write(data, nbytes)) throw std::runtime_error(to + ": not written");
    }
  }
}

int main(int argc, char** argv) {
  if (argc != 4) return std::fputs("levels MODEL.safetensors LIBRARY.so FOLDER\n", stderr), 2;
  try {
    run_levels(argv[1], argv[2], argv[3]);
  } catch (const std::exception& error) {
    return std::fprintf(stderr, "levels: %s\n", error.what()), 1;
  }
}
