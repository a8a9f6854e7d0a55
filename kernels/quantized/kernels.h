// Declares the kernels of kernels.inc that can be built for this architecture, and finds kernels in the list.
#pragma once

#include "../isa.h"
#include "gather8/gather8.h"
#include "gemv8/gemv8.h"
#include "spmm8/spmm8.h"

#define NESTED_SPARSE_LIST_SCALAR
#if NESTED_SPARSE_X86
#define NESTED_SPARSE_LIST_AVX2
#define NESTED_SPARSE_LIST_AVX512
#define NESTED_SPARSE_LIST_AVX512VNNI
#if NESTED_SPARSE_AVXVNNI
#define NESTED_SPARSE_LIST_AVXVNNI
#endif
#endif
#if NESTED_SPARSE_ARM64
#define NESTED_SPARSE_LIST_NEON
#define NESTED_SPARSE_LIST_NEONDOT
#endif

namespace nested_sparse {

#define SPMM8_KERNEL(isa, dot, symbol, sums_symbol, block_rows)               \
  void symbol(const Spmm8Args& args, int64_t group_begin, int64_t group_end); \
  void sums_symbol(const Sums8Args& args, int64_t group_begin, int64_t group_end);
#define GEMV8_KERNEL(isa, dot, symbol, block_rows) \
  void symbol(const Gemv8Args& args, int64_t group_begin, int64_t group_end);
#define GEMV8_FLOAT_KERNEL(isa, symbol, block_rows) \
  void symbol(const Gemv8FloatArgs& args, int64_t group_begin, int64_t group_end);
#define GATHER8_KERNEL(isa, symbol) void symbol(const Gather8Args& args);
#include "kernels.inc"

// One line of the list.
struct QuantizedKernel {
  const char* name;
  Isa isa;
  bool dot;
  int32_t block_rows;
  Spmm8Kernel spmm;
  Sums8Kernel sums;
};

// The same of the kernels that multiply by vectors. Exactly one of `bytes` and `floats` is set.
struct Gemv8Info {
  const char* name;
  Isa isa;
  bool dot;
  int32_t block_rows;
  Gemv8Kernel bytes;
  Gemv8FloatKernel floats;
};

// The lists of kernels in their order, and their lengths.
const QuantizedKernel* quantized_kernel_list(int32_t* count);
const Gemv8Info* gemv8_list(int32_t* count);

// The kernels of an instruction set for weights of such blocks. Throws std::invalid_argument where none is listed.
const QuantizedKernel& find_spmm8(const IsaChoice& choice, int32_t block_rows);
const Gemv8Info& find_gemv8(const IsaChoice& choice, int32_t block_rows);
const Gemv8Info& find_float_gemv8(const IsaChoice& choice, int32_t block_rows);

Gather8Kernel find_gather8(Isa isa);

}  // namespace nested_sparse
