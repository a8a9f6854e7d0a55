#include <stdexcept>
#include <string>

#include "kernels.h"

namespace nested_sparse {
namespace {

constexpr QuantizedKernel kKernels[] = {
#define SPMM8_KERNEL(isa, dot, symbol, sums_symbol, block_rows) \
  {#symbol, Isa::isa, dot, block_rows, symbol, sums_symbol},
#include "kernels.inc"
};

constexpr Gemv8Info kGemvs[] = {
#define GEMV8_KERNEL(isa, dot, symbol, block_rows) {#symbol, Isa::isa, dot, block_rows, symbol, nullptr},
#define GEMV8_FLOAT_KERNEL(isa, symbol, block_rows) {#symbol, Isa::isa, false, block_rows, nullptr, symbol},
#include "kernels.inc"
};

struct GatherOf {
  Isa isa;
  Gather8Kernel kernel;
};

constexpr GatherOf kGathers[] = {
#define GATHER8_KERNEL(isa, symbol) {Isa::isa, symbol},
#include "kernels.inc"
};

const Gemv8Info& find_gemv(bool floats, Isa isa, bool dot, int32_t block_rows) {
  for (const Gemv8Info& kernel : kGemvs) {
    const bool fits = kernel.isa == isa && kernel.dot == dot && kernel.block_rows == block_rows;
    if (fits && (kernel.floats != nullptr) == floats) return kernel;
  }
  throw std::invalid_argument("no kernel for vectors and int8 blocks of " + std::to_string(block_rows) + " rows on " +
                              isa_name(isa, dot));
}

}  // namespace

const QuantizedKernel* quantized_kernel_list(int32_t* count) {
  *count = static_cast<int32_t>(sizeof kKernels / sizeof kKernels[0]);
  return kKernels;
}

const QuantizedKernel& find_spmm8(const IsaChoice& choice, int32_t block_rows) {
  for (const QuantizedKernel& kernel : kKernels) {
    if (kernel.isa == choice.isa && kernel.dot == choice.dot && kernel.block_rows == block_rows) return kernel;
  }
  throw std::invalid_argument("no kernel for int8 blocks of " + std::to_string(block_rows) + " rows on " +
                              isa_name(choice.isa, choice.dot));
}

const Gemv8Info* gemv8_list(int32_t* count) {
  *count = static_cast<int32_t>(sizeof kGemvs / sizeof kGemvs[0]);
  return kGemvs;
}

const Gemv8Info& find_gemv8(const IsaChoice& choice, int32_t block_rows) {
  return find_gemv(false, choice.isa, choice.dot, block_rows);
}

// Kernels of floats use no dot products of bytes.
const Gemv8Info& find_float_gemv8(const IsaChoice& choice, int32_t block_rows) {
  return find_gemv(true, choice.isa, false, block_rows);
}

Gather8Kernel find_gather8(Isa isa) {
  for (const GatherOf& gather : kGathers) {
    if (gather.isa == isa) return gather.kernel;
  }
  return gather8_scalar;
}

}  // namespace nested_sparse
