#include <stdexcept>
#include <string>

#include "kernels.h"

namespace nested_sparse {
namespace {

constexpr KernelInfo kKernels[] = {
#define SPMM_KERNEL(isa, symbol, block_rows, vectors, lanes, index) \
  {#symbol, Isa::isa, block_rows, 0, sizeof(index), vectors, lanes, symbol, nullptr},
#define GEMV_KERNEL(isa, symbol, block_rows, index) \
  {#symbol, Isa::isa, block_rows, 0, sizeof(index), 0, 0, nullptr, symbol},
#define PACK_SPMM_KERNEL(isa, symbol, banks, vectors, lanes, index) \
  {#symbol, Isa::isa, 1, banks, sizeof(index), vectors, lanes, symbol, nullptr},
#define PACK_GEMV_KERNEL(isa, symbol, banks, index) {#symbol, Isa::isa, 1, banks, sizeof(index), 0, 0, nullptr, symbol},
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

const KernelInfo& find_kernel(bool gemv, Isa isa, int32_t block_rows, int32_t index_bytes, int32_t banks) {
  for (const KernelInfo& kernel : kKernels) {
    if ((kernel.gemv != nullptr) == gemv && kernel.isa == isa && kernel.block_rows == block_rows &&
        kernel.banks == banks && kernel.index_bytes == index_bytes) {
      return kernel;
    }
  }
  throw std::invalid_argument("no kernel for blocks of " + std::to_string(block_rows) + " rows, packs of " +
                              std::to_string(banks) + " and " + std::to_string(index_bytes) + "-byte columns on " +
                              isa_name(isa));
}

const GatherInfo& find_gather(Isa isa) {
  for (const GatherInfo& gather : kGathers) {
    if (gather.isa == isa) return gather;
  }
  throw std::invalid_argument(std::string("no gather kernel for ") + isa_name(isa));
}

}  // namespace nested_sparse
