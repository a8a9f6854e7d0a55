#include "normalization.h"

#include "../find_loops.h"
#include "../kernels.h"

namespace nested_sparse {
namespace {

constexpr const NormalizeLoop* kLoops[] = {
#define NORMALIZE_KERNEL(isa, symbol) &symbol,
#include "../kernels.inc"
};

}  // namespace

const NormalizeLoop& find_normalize(Isa isa) {
  return find_loops(kLoops, isa, "norms");
}

}  // namespace nested_sparse
