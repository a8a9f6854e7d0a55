#include <stdexcept>
#include <string>

#include "gemv8.h"

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

#define GEMV8_KERNEL(isa, dot, symbol, block_rows) \
  void symbol(const Gemv8Args& args, int64_t group_begin, int64_t group_end);
#define GEMV8_FLOAT_KERNEL(isa, symbol, block_rows) \
  void symbol(const Gemv8FloatArgs& args, int64_t group_begin, int64_t group_end);
#include "../kernels.inc"

namespace {

constexpr Gemv8Info kKernels[] = {
#define GEMV8_KERNEL(isa, dot, symbol, block_rows) {#symbol, Isa::isa, dot, block_rows, symbol, nullptr},
#define GEMV8_FLOAT_KERNEL(isa, symbol, block_rows) {#symbol, Isa::isa, false, block_rows, nullptr, symbol},
#include "../kernels.inc"
};

const Gemv8Info& find(bool floats, Isa isa, bool dot, int32_t block_rows) {
  for (const Gemv8Info& kernel : kKernels) {
    const bool fits = kernel.isa == isa && kernel.dot == dot && kernel.block_rows == block_rows;
    if (fits && (kernel.floats != nullptr) == floats) return kernel;
  }
  throw std::invalid_argument("no kernel for vectors and int8 blocks of " + std::to_string(block_rows) + " rows on " +
                              isa_name(isa, dot));
}

}  // namespace

const Gemv8Info* gemv8_list(int32_t* count) {
  *count = static_cast<int32_t>(sizeof kKernels / sizeof kKernels[0]);
  return kKernels;
}

const Gemv8Info& find_gemv8(const IsaChoice& choice, int32_t block_rows) {
  return find(false, choice.isa, choice.dot, block_rows);
}

const Gemv8Info& find_float_gemv8(const IsaChoice& choice, int32_t block_rows) {
  return find(true, choice.isa, false, block_rows);
}

}  // namespace nested_sparse
