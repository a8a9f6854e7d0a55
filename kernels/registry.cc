#include <stdexcept>
#include <string>

#include "kernels.h"

namespace nested_sparse {
namespace {

constexpr KernelInfo kKernels[] = {
#define SPMM_KERNEL(isa, symbol, block_rows, vectors, lanes, index, value) \
  {#symbol, Isa::isa, {block_rows, 0, sizeof(index), ValueType::value}, vectors, lanes, symbol, nullptr},
#define GEMV_KERNEL(isa, symbol, block_rows, index, value) \
  {#symbol, Isa::isa, {block_rows, 0, sizeof(index), ValueType::value}, 0, 0, nullptr, symbol},
#define GS_SPMM_KERNEL(isa, symbol, banks, vectors, lanes, index, value) \
  {#symbol, Isa::isa, {1, banks, sizeof(index), ValueType::value}, vectors, lanes, symbol, nullptr},
#define GS_GEMV_KERNEL(isa, symbol, banks, index, value) \
  {#symbol, Isa::isa, {1, banks, sizeof(index), ValueType::value}, 0, 0, nullptr, symbol},
#include "kernels.inc"
};

constexpr GatherInfo kGathers[] = {
#define GATHER_KERNEL(isa, symbol, depthwise_symbol, max_symbol, vectors, lanes) \
  {Isa::isa, TileShape{lanes, vectors}, symbol, depthwise_symbol, max_symbol},
#include "kernels.inc"
};

constexpr ActivateInfo kActivates[] = {
#define ACTIVATE_KERNEL(isa, symbol, scale_symbol) {Isa::isa, symbol, scale_symbol},
#include "kernels.inc"
};

constexpr const HeadLoops* kHeads[] = {
#define ATTENTION_KERNEL(isa, symbol) &symbol,
#include "kernels.inc"
};

constexpr const GateLoops* kGates[] = {
#define GATES_KERNEL(isa, symbol) &symbol,
#include "kernels.inc"
};

constexpr const PixelLoops* kPixels[] = {
#define PIXELS8_KERNEL(isa, symbol) &symbol,
#include "kernels.inc"
};

constexpr const TransposeLoops* kTransposes[] = {
#define TRANSPOSE_KERNEL(isa, symbol) &symbol,
#include "kernels.inc"
};

constexpr const NormalizeLoop* kNormalizes[] = {
#define NORMALIZE_KERNEL(isa, symbol) &symbol,
#include "kernels.inc"
};

// what: the data that the loops go over, in words.
template <class Loops, size_t count>
const Loops& find_loops(const Loops* const (&list)[count], Isa isa, const char* what) {
  for (const Loops* loops : list) {
    if (loops->isa == isa) return *loops;
  }
  throw std::invalid_argument(std::string("no loops over ") + what + " for " + isa_name(isa));
}

const KernelInfo& find_kernel(bool gemv, Isa isa, const WeightKind& weight) {
  for (const KernelInfo& kernel : kKernels) {
    if ((kernel.gemv != nullptr) == gemv && kernel.isa == isa && kernel.weight == weight) return kernel;
  }
  throw std::invalid_argument("no kernel for blocks of " + std::to_string(weight.block_rows) +
                              " rows, gather groups of " + std::to_string(weight.banks) + ", " +
                              std::to_string(weight.index_bytes) + "-byte columns and " +
                              info_of(weight.value_type).name + " values on " + isa_name(isa));
}

}  // namespace

const KernelInfo* kernel_list(int32_t* count) {
  *count = static_cast<int32_t>(sizeof kKernels / sizeof kKernels[0]);
  return kKernels;
}

const KernelInfo& find_spmm(Isa isa, const WeightKind& weight) {
  return find_kernel(false, isa, weight);
}

const KernelInfo& find_gemv(Isa isa, const WeightKind& weight) {
  return find_kernel(true, isa, weight);
}

const GatherInfo& find_gather(Isa isa) {
  for (const GatherInfo& gather : kGathers) {
    if (gather.isa == isa) return gather;
  }
  throw std::invalid_argument(std::string("no gather kernel for ") + isa_name(isa));
}

const ActivateInfo& find_activate(Isa isa) {
  for (const ActivateInfo& activate : kActivates) {
    if (activate.isa == isa) return activate;
  }
  throw std::invalid_argument(std::string("no activations for ") + isa_name(isa));
}

const HeadLoops& find_attention(Isa isa) {
  return find_loops(kHeads, isa, "heads");
}

const GateLoops& find_gates(Isa isa) {
  return find_loops(kGates, isa, "gates");
}

const PixelLoops& find_pixel_loops(Isa isa) {
  return find_loops(kPixels, isa, "pixels");
}

const TransposeLoops& find_transpose(Isa isa) {
  return find_loops(kTransposes, isa, "matrices");
}

const NormalizeLoop& find_normalize(Isa isa) {
  return find_loops(kNormalizes, isa, "norms");
}

}  // namespace nested_sparse
