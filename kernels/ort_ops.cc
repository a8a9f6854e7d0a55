// Registers the operators with ONNX Runtime. No exception leaves this file: each becomes an OrtStatus.
#include <algorithm>
#include <cstdio>
#include <exception>
#include <memory>
#include <mutex>
#include <vector>

#include "attention_operator.h"
#include "conv.h"
#include "conv_transpose.h"
#include "denormals.h"
#include "exported.h"
#include "isa.h"
#include "linear.h"
#include "max_pool.h"
#include "norm.h"
#include "ort_api.h"
#include "quantized/add.h"
#include "quantized/average_pool.h"
#include "quantized/conv.h"
#include "quantized/dequantize.h"
#include "quantized/global_average_pool.h"
#include "quantized/linear.h"
#include "quantized/max_pool.h"
#include "quantized/multiply.h"
#include "quantized/quantize.h"
#include "recurrent.h"

namespace nested_sparse {
namespace {

constexpr const char* kDomain = "nested_sparse";
constexpr int kLatestVersion = 0x7fffffff;

struct Input {
  ort::ElementType type;
  ort::Characteristic characteristic;
};
struct Inputs {
  size_t count;
  Input each[4];
};

// One of our operators, as ONNX Runtime is told about it. All outputs of an operator have one type.
struct OperatorInfo {
  const char* name;
  OrtStatus* (*create)(const OrtCustomOp*, const OrtApi*, const OrtKernelInfo*, void**);
  ort::ElementType output;
  Inputs inputs;
  // The input whose memory the output may take where no other node reads it; null: none.
  size_t (*inplace)(int** inputs, int** outputs);
  size_t outputs = 1;
};

// The description of an operator, to which ONNX Runtime keeps a pointer, with the interface of that runtime.
struct Description : OrtCustomOp {
  const ort::Api* api;
  const OperatorInfo* info;
};

const OperatorInfo& info_of(const OrtCustomOp* op) {
  return *static_cast<const Description*>(op)->info;
}

struct Kernel {
  const ort::Api& api;
  std::unique_ptr<const Operator> op;
};

template <class Body>
OrtStatus* guarded(const ort::Api& api, const Body& body) {
  try {
    body();
    return nullptr;
  } catch (const ort::Error& error) {
    return api.create_status(ort::kInvalidArgument, error.what());
  } catch (const std::exception& error) {
    return api.create_status(ort::kFail, error.what());
  }
}

template <class Op>
OrtStatus* create(const OrtCustomOp* description, const OrtApi*, const OrtKernelInfo* info, void** kernel) {
  const ort::Api& api = *static_cast<const Description*>(description)->api;
  return guarded(api, [&] {
    auto op = std::make_unique<const Op>(ort::Attributes(api, info));
    *kernel = new Kernel{api, std::move(op)};
  });
}

OrtStatus* compute(void* kernel, OrtKernelContext* context) {
  const auto& self = *static_cast<const Kernel*>(kernel);
  const FlushDenormals flush;
  return guarded(self.api, [&] { self.op->compute(ort::Context(self.api, context)); });
}

void destroy(void* kernel) {
  delete static_cast<Kernel*>(kernel);
}

// ONNX Runtime makes use of it where both have the same shape in the graph. For residuals it saves ResNet-50 12 % of
// its time.
template <int index>
size_t reuse_input(int** inputs, int** outputs) {
  static int input = index;
  static int output = 0;
  *inputs = &input;
  *outputs = &output;
  return 1;
}

constexpr Input kFloats{ort::kFloat, ort::kRequired};
constexpr Input kFloatsOrNone{ort::kFloat, ort::kOptional};
constexpr Input kImage{ort::kUint8, ort::kRequired};
constexpr Input kImageOrNone{ort::kUint8, ort::kOptional};
constexpr Input kLevelCell{ort::kInt64, ort::kRequired};
constexpr Input kSegments{ort::kUint8, ort::kVariadic};
constexpr Inputs kOfLayer{4, {kFloats, kLevelCell, kFloatsOrNone, kSegments}};
constexpr Inputs kOfHeads{4, {kFloats, kFloats, kFloats, kFloatsOrNone}};
constexpr Inputs kOfImageLayer{4, {kImage, kLevelCell, kImageOrNone, kSegments}};

const OperatorInfo kOperators[] = {
    {"NestedConv", create<NestedConv>, ort::kFloat, kOfLayer, reuse_input<kResidual>},
    {"NestedLinear", create<NestedLinear>, ort::kFloat, kOfLayer, reuse_input<kResidual>},
    {"NestedConvTranspose", create<NestedConvTranspose>, ort::kFloat, kOfLayer, nullptr},
    {"NestedLSTM", create<NestedLstm>, ort::kFloat, kOfLayer, nullptr, 2},
    {"NestedGRU", create<NestedGru>, ort::kFloat, kOfLayer, nullptr},
    {"NestedNorm", create<NestedNorm>, ort::kFloat, {4, {kFloats, kLevelCell, kFloats, kFloats}}, reuse_input<kX>},
    {"ScaledDotProductAttention", create<ScaledDotProductAttention>, ort::kFloat, kOfHeads, nullptr},
    {"TiledMaxPool", create<TiledMaxPool>, ort::kFloat, {1, {kFloats}}, nullptr},
    {"QuantizedConv", create<QuantizedConv>, ort::kUint8, kOfImageLayer, reuse_input<kResidual>},
    {"QuantizedLinear", create<QuantizedLinear>, ort::kFloat, kOfLayer, reuse_input<kResidual>},
    {"QuantizeImage", create<QuantizeImage>, ort::kUint8, {2, {kFloats, kLevelCell}}, nullptr},
    {"DequantizeImage", create<DequantizeImage>, ort::kFloat, {1, {kImage}}, nullptr},
    {"QuantizedMaxPool", create<QuantizedMaxPool>, ort::kUint8, {1, {kImage}}, nullptr},
    {"QuantizedAveragePool", create<QuantizedAveragePool>, ort::kUint8, {1, {kImage}}, nullptr},
    {"QuantizedGlobalAveragePool", create<QuantizedGlobalAveragePool>, ort::kFloat, {1, {kImage}}, nullptr},
    {"QuantizedAdd", create<QuantizedAdd>, ort::kUint8, {3, {kImage, kImage, kLevelCell}}, nullptr},
    {"QuantizedMultiply", create<QuantizedMultiply>, ort::kUint8, {3, {kImage, kFloats, kLevelCell}}, nullptr},
};
constexpr size_t kOperatorCount = sizeof kOperators / sizeof kOperators[0];

Description describe(const OperatorInfo& info, const ort::Api* api, uint32_t version) {
  Description op{};
  op.version = version;
  op.get_name = [](const OrtCustomOp* self) { return info_of(self).name; };
  op.get_execution_provider = [](const OrtCustomOp*) -> const char* { return nullptr; };  // null: the CPU
  op.get_input_type = [](const OrtCustomOp* self, size_t index) -> int {
    return info_of(self).inputs.each[index].type;
  };
  op.get_input_count = [](const OrtCustomOp* self) { return info_of(self).inputs.count; };
  op.get_output_type = [](const OrtCustomOp* self, size_t) -> int { return info_of(self).output; };
  op.get_output_count = [](const OrtCustomOp* self) { return info_of(self).outputs; };
  op.destroy = destroy;
  op.get_input_characteristic = [](const OrtCustomOp* self, size_t index) -> int {
    return info_of(self).inputs.each[index].characteristic;
  };
  op.get_output_characteristic = [](const OrtCustomOp*, size_t) -> int { return ort::kRequired; };
  op.get_input_memory_type = [](const OrtCustomOp*, size_t) -> int { return 0; };
  op.get_variadic_input_min_arity = [](const OrtCustomOp*) -> int { return 1; };
  op.get_variadic_input_homogeneity = [](const OrtCustomOp*) -> int { return 1; };
  op.get_variadic_output_min_arity = [](const OrtCustomOp*) -> int { return 1; };
  op.get_variadic_output_homogeneity = [](const OrtCustomOp*) -> int { return 1; };
  op.create_kernel_v2 = info.create;
  op.compute_v2 = compute;
  op.get_start_version = [](const OrtCustomOp*) -> int { return 1; };
  op.get_end_version = [](const OrtCustomOp*) -> int { return kLatestVersion; };
  op.get_may_inplace = info.inplace != nullptr ? info.inplace : [](int**, int**) -> size_t { return 0; };
  op.release_may_inplace = [](int*, int*) {};
  op.api = api;
  op.info = &info;
  return op;
}

// The operators as one runtime sees them. It is never freed, because sessions hold pointers into it.
struct Registration {
  // newest: the newest version of the interface that this library knows and the runtime has.
  Registration(const OrtApi* table, uint32_t newest) : table(table) {
    if (!api.load(table, newest)) throw std::runtime_error("this ONNX Runtime lacks functions of API version 17");
    check(api.create_domain(kDomain, &domain));
    const uint32_t version = std::min(newest, ort::kInplaceVersion);  // all that OrtCustomOp here has
    for (size_t i = 0; i < kOperatorCount; ++i) {
      operators[i] = describe(kOperators[i], &api, version);
      check(api.domain_add(domain, &operators[i]));
    }
  }

  void check(OrtStatus* status) const {
    if (status == nullptr) return;
    const std::runtime_error error(api.error_message(status));
    api.release_status(status);
    throw error;
  }

  const OrtApi* table;
  ort::Api api{};
  Description operators[kOperatorCount]{};
  OrtCustomOpDomain* domain = nullptr;
};

// The newest version of the interface that this library knows and the runtime has. ONNX Runtime 1.N has version N;
// asked for a version that it lacks, it would print an error.
uint32_t newest_version(const OrtApiBase* base) {
  unsigned major = 0;
  unsigned minor = 0;
  if (std::sscanf(base->get_version_string(), "%u.%u", &major, &minor) != 2) return ort::kApiVersion;
  for (const uint32_t version : {ort::kShapeVersion, ort::kInplaceVersion}) {
    if (major > 1 || minor >= version) return version;
  }
  return ort::kApiVersion;
}

// The registration for a runtime. A process has one for each runtime in it, which is nearly always one.
const Registration& registration_for(const OrtApi* table, uint32_t newest) {
  static std::mutex mutex;
  static auto& all = *new std::vector<std::unique_ptr<const Registration>>;
  const std::lock_guard<std::mutex> lock(mutex);
  for (const auto& registration : all) {
    if (registration->table == table) return *registration;
  }
  all.push_back(std::make_unique<const Registration>(table, newest));
  return *all.back();
}

}  // namespace
}  // namespace nested_sparse

// The function that SessionOptions.register_custom_ops_library calls.
NESTED_SPARSE_EXPORT OrtStatus* RegisterCustomOps(OrtSessionOptions* options, const OrtApiBase* base) {
  using namespace nested_sparse;
  const OrtApi* table = base->get_api(ort::kApiVersion);
  if (table == nullptr) {
    // The first slot is CreateStatus in every version.
    const OrtApi* oldest = base->get_api(1);
    if (oldest == nullptr) return nullptr;
    return reinterpret_cast<OrtStatus* (*)(int, const char*)>(oldest->slot[0])(
        ort::kFail, "nested_sparse needs an ONNX Runtime of API version 17 (1.17) or later");
  }
  const auto create_status = reinterpret_cast<OrtStatus* (*)(int, const char*)>(table->slot[0]);
  if (isa_choice().error[0] != '\0') return create_status(ort::kFail, isa_choice().error);
  try {
    const Registration& registration = registration_for(table, newest_version(base));
    registration.check(registration.api.add_domain(options, registration.domain));
    return nullptr;
  } catch (const std::exception& error) {
    return create_status(ort::kFail, error.what());
  }
}
