// The part of ONNX Runtime's C interface that the operators use, of API version 17. It is declared here because ONNX
// Runtime's wheel ships no headers. The interface is a table of function pointers to which later versions only append,
// so the slots below are right for every later runtime. The library does not link ONNX Runtime: the runtime passes its
// table to RegisterCustomOps.
#pragma once

#include <cstddef>
#include <cstdint>

struct OrtStatus;
struct OrtSessionOptions;
struct OrtCustomOpDomain;
struct OrtTensorTypeAndShapeInfo;
struct OrtValue;
struct OrtKernelInfo;
struct OrtKernelContext;
struct OrtShapeInferContext;
struct OrtCustomOp;

// ONNX Runtime's table; a function is found by the number of its slot.
struct OrtApi {
  void (*slot[1])();
};

struct OrtApiBase {
  const OrtApi* (*get_api)(uint32_t version);
  const char* (*get_version_string)();
};

// A custom operator as ONNX Runtime reads it: at API version 17 up to get_end_version, from 18 on all of it.
struct OrtCustomOp {
  uint32_t version;
  void* (*create_kernel)(const OrtCustomOp*, const OrtApi*, const OrtKernelInfo*);
  const char* (*get_name)(const OrtCustomOp*);
  const char* (*get_execution_provider)(const OrtCustomOp*);
  int (*get_input_type)(const OrtCustomOp*, size_t);
  size_t (*get_input_count)(const OrtCustomOp*);
  int (*get_output_type)(const OrtCustomOp*, size_t);
  size_t (*get_output_count)(const OrtCustomOp*);
  void (*compute)(void*, OrtKernelContext*);
  void (*destroy)(void*);
  int (*get_input_characteristic)(const OrtCustomOp*, size_t);
  int (*get_output_characteristic)(const OrtCustomOp*, size_t);
  int (*get_input_memory_type)(const OrtCustomOp*, size_t);
  int (*get_variadic_input_min_arity)(const OrtCustomOp*);
  int (*get_variadic_input_homogeneity)(const OrtCustomOp*);
  int (*get_variadic_output_min_arity)(const OrtCustomOp*);
  int (*get_variadic_output_homogeneity)(const OrtCustomOp*);
  OrtStatus* (*create_kernel_v2)(const OrtCustomOp*, const OrtApi*, const OrtKernelInfo*, void**);
  OrtStatus* (*compute_v2)(void*, OrtKernelContext*);
  OrtStatus* (*infer_output_shape)(const OrtCustomOp*, OrtShapeInferContext*);
  int (*get_start_version)(const OrtCustomOp*);
  int (*get_end_version)(const OrtCustomOp*);
  size_t (*get_may_inplace)(int**, int**);
  void (*release_may_inplace)(int*, int*);
  size_t (*get_alias_map)(int**, int**);
  void (*release_alias_map)(int*, int*);
};

namespace nested_sparse::ort {

constexpr uint32_t kApiVersion = 17;      // the oldest that has every function of Api
constexpr uint32_t kInplaceVersion = 18;  // the oldest that reads get_may_inplace
constexpr uint32_t kShapeVersion = 24;    // the oldest that has Api::shape

enum ElementType { kFloat = 1, kUint8 = 2, kInt64 = 7 };
enum Characteristic { kRequired = 0, kOptional = 1, kVariadic = 2 };
enum ErrorCode { kFail = 1, kInvalidArgument = 2 };

// The functions of the table that this library calls, with their types.
struct Api {
  OrtStatus* (*create_status)(int code, const char* message);
  const char* (*error_message)(const OrtStatus*);
  void (*release_status)(OrtStatus*);
  OrtStatus* (*create_domain)(const char* name, OrtCustomOpDomain** out);
  OrtStatus* (*domain_add)(OrtCustomOpDomain*, const OrtCustomOp*);
  OrtStatus* (*add_domain)(OrtSessionOptions*, OrtCustomOpDomain*);
  OrtStatus* (*tensor_data)(OrtValue*, void** out);
  OrtStatus* (*dimension_count)(const OrtTensorTypeAndShapeInfo*, size_t* out);
  OrtStatus* (*dimensions)(const OrtTensorTypeAndShapeInfo*, int64_t* out, size_t count);
  OrtStatus* (*tensor_info)(const OrtValue*, OrtTensorTypeAndShapeInfo** out);
  void (*release_tensor_info)(OrtTensorTypeAndShapeInfo*);
  OrtStatus* (*attribute_float)(const OrtKernelInfo*, const char* name, float* out);
  OrtStatus* (*attribute_int)(const OrtKernelInfo*, const char* name, int64_t* out);
  OrtStatus* (*attribute_string)(const OrtKernelInfo*, const char* name, char* out, size_t* size);
  OrtStatus* (*attribute_floats)(const OrtKernelInfo*, const char* name, float* out, size_t* size);
  OrtStatus* (*attribute_ints)(const OrtKernelInfo*, const char* name, int64_t* out, size_t* size);
  OrtStatus* (*input_count)(const OrtKernelContext*, size_t* out);
  OrtStatus* (*input)(const OrtKernelContext*, size_t index, const OrtValue** out);
  OrtStatus* (*output)(OrtKernelContext*, size_t index, const int64_t* dimensions, size_t count, OrtValue** out);
  OrtStatus* (*parallel_for)(const OrtKernelContext*, void (*fn)(void*, size_t), size_t total, size_t batches, void*);
  // The shape where it lies. `tensor_info` allocates a copy, which for five inputs was a third of a small node's time.
  // Null below kShapeVersion.
  OrtStatus* (*shape)(const OrtValue*, int* type, const int64_t** dimensions, size_t* count);
  // Fills this from the slots of `table`. False where a slot is empty, which happens only below kApiVersion.
  // newest: the newest of the versions named here that the runtime has.
  bool load(const OrtApi* table, uint32_t newest);
};

}  // namespace nested_sparse::ort
