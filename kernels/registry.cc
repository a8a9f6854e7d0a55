#include <stdexcept>
#include <string>

#include "kernels.h"

namespace nested_sparse {
namespace {

constexpr KernelInfo kKernels[] = {
#define SPMM_KERNEL(isa, symbol, block_rows, vectors, lanes, index)                      \
  {#symbol, Isa::isa, block_rows, 0, sizeof(index), 4, vectors, lanes, symbol, nullptr}, \
      {#symbol "_f16", Isa::isa, block_rows, 0, sizeof(index), 2, vectors, lanes, symbol##_f16, nullptr},
#define GEMV_KERNEL(isa, symbol, block_rows, index)                            \
  {#symbol, Isa::isa, block_rows, 0, sizeof(index), 4, 0, 0, nullptr, symbol}, \
      {#symbol "_f16", Isa::isa, block_rows, 0, sizeof(index), 2, 0, 0, nullptr, symbol##_f16},
#define PACK_SPMM_KERNEL(isa, symbol, banks, vectors, lanes, index)                 \
  {#symbol, Isa::isa, 1, banks, sizeof(index), 4, vectors, lanes, symbol, nullptr}, \
      {#symbol "_f16", Isa::isa, 1, banks, sizeof(index), 2, vectors, lanes, symbol##_f16, nullptr},
#define PACK_GEMV_KERNEL(isa, symbol, banks, index)                       \
  {#symbol, Isa::isa, 1, banks, sizeof(index), 4, 0, 0, nullptr, symbol}, \
      {#symbol "_f16", Isa::isa, 1, banks, sizeof(index), 2, 0, 0, nullptr, symbol##_f16},
#include "kernels.inc"
};

constexpr GatherInfo kGathers[] = {
#define GATHER_KERNEL(isa, symbol, weigh_symbol, max_symbol, vectors, lanes) \
  {Isa::isa, TileShape{lanes, vectors}, symbol, weigh_symbol, max_symbol},
#include "kernels.inc"
};

}  // namespace

const KernelInfo* kernel_list(int32_t* count) {
  *count = static_cast<int32_t>(sizeof kKernels / sizeof kKernels[0]);
  return kKernels;
}

const KernelInfo& find_kernel(bool gemv, Isa isa, int32_t block_rows, int32_t index_bytes, int32_t value_bytes,
                              int32_t banks) {
  for (const KernelInfo& kernel : kKernels) {
    if ((kernel.gemv != nullptr) == gemv && kernel.isa == isa && kernel.block_rows == block_rows &&
        kernel.banks == banks && kernel.index_bytes == index_bytes && kernel.value_bytes == value_bytes) {
      return kernel;
    }
  }
  throw std::invalid_argument("no kernel for blocks of " + std::to_string(block_rows) + " rows, packs of " +
                              std::to_string(banks) + ", " + std::to_string(index_bytes) + "-byte columns and " +
                              std::to_string(value_bytes) + "-byte values on " + isa_name(isa));
}

const GatherInfo& find_gather(Isa isa) {
  for (const GatherInfo& gather : kGathers) {
    if (gather.isa == isa) return gather;
  }
  throw std::invalid_argument(std::string("no gather kernel for ") + isa_name(isa));
}

}  // namespace nested_sparse
