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

struct GatherOf {
  Isa isa;
  Gather8Kernel kernel;
};

constexpr GatherOf kGathers[] = {
#define GATHER8_KERNEL(isa, symbol) {Isa::isa, symbol},
#include "kernels.inc"
};

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

Gather8Kernel find_gather8(Isa isa) {
  for (const GatherOf& gather : kGathers) {
    if (gather.isa == isa) return gather.kernel;
  }
  return gather8_scalar;
}

}  // namespace nested_sparse
