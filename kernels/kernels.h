// Declares the kernels of kernels.inc that can be built for this architecture, and finds kernels in the list.
#pragma once

#include "activation/activation.h"
#include "attention/attention.h"
#include "gates/gates.h"
#include "gather/gather.h"
#include "gemv/gemv.h"
#include "image.h"
#include "isa.h"
#include "normalization/normalization.h"
#include "quantized/pixels8/pixels8.h"
#include "spmm/spmm.h"
#include "transposition/transposition.h"

#define NESTED_SPARSE_LIST_SCALAR
#if NESTED_SPARSE_X86
#define NESTED_SPARSE_LIST_AVX2
#define NESTED_SPARSE_LIST_AVX512
#endif
#if NESTED_SPARSE_ARM64
#define NESTED_SPARSE_LIST_NEON
#endif

namespace nested_sparse {

#define SPMM_KERNEL(isa, symbol, block_rows, vectors, lanes, index, value) \
  void symbol(const SpmmArgs& args, int64_t group_begin, int64_t group_end);
#define GEMV_KERNEL(isa, symbol, block_rows, index, value) \
  void symbol(const GemvArgs& args, int64_t group_begin, int64_t group_end);
#define GATHER_KERNEL(isa, symbol, depthwise_symbol, max_symbol, vectors, lanes) \
  void symbol(const GatherArgs& args);                                           \
  void depthwise_symbol(const DepthwiseArgs& args);                              \
  void max_symbol(const float* rows, int64_t taps, int64_t count, float* y);
#define PIXELS8_KERNEL(isa, symbol) extern const PixelLoops symbol;
#define GATES_KERNEL(isa, symbol) extern const GateLoops symbol;
#define ATTENTION_KERNEL(isa, symbol) extern const HeadLoops symbol;
#define TRANSPOSE_KERNEL(isa, symbol) extern const TransposeLoops symbol;
#define NORMALIZE_KERNEL(isa, symbol) extern const NormalizeLoop symbol;
#define ACTIVATE_KERNEL(isa, symbol, scale_symbol)             \
  void symbol(Activation activation, int64_t count, float* y); \
  void scale_symbol(int64_t count, const float* x, float scale, float shift, Clip bounds, float* y);
#define GS_SPMM_KERNEL(isa, symbol, banks, vectors, lanes, index, value) \
  void symbol(const SpmmArgs& args, int64_t row_begin, int64_t row_end);
#define GS_GEMV_KERNEL(isa, symbol, banks, index, value) \
  void symbol(const GemvArgs& args, int64_t bundle_begin, int64_t bundle_end);
#include "kernels.inc"

// One line of the list. Exactly one of `spmm` and `gemv` is set.
struct KernelInfo {
  const char* name;
  Isa isa;
  WeightKind weight;
  int32_t vectors;  // spmm: pixel vectors of a tile at most
  int32_t lanes;    // spmm: pixels of a vector
  SpmmKernel spmm;
  GemvKernel gemv;
};

// The list of kernels in its order, and its length.
const KernelInfo* kernel_list(int32_t* count);

// The first listed kernel of instruction set `isa` for such weights. Throws std::invalid_argument where none is listed.
const KernelInfo& find_spmm(Isa isa, const WeightKind& weight);
const KernelInfo& find_gemv(Isa isa, const WeightKind& weight);

// How the convolutions of an instruction set lay out and gather images.
struct GatherInfo {
  Isa isa;
  TileShape shape;
  GatherKernel gather;
  DepthwiseKernel depthwise;
  MaxKernel max_rows;
};
const GatherInfo& find_gather(Isa isa);

// The activations of an instruction set.
struct ActivateInfo {
  Isa isa;
  ActivateKernel activate;
  ScaleKernel scale;
};
// Throws std::invalid_argument where none are listed.
const ActivateInfo& find_activate(Isa isa);

}  // namespace nested_sparse
