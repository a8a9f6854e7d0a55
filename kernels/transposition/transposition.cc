#include "transposition.h"

#include "../find_loops.h"
#include "../kernels.h"

namespace nested_sparse {
namespace {

constexpr const TransposeLoops* kLoops[] = {
#define TRANSPOSE_KERNEL(isa, symbol) &symbol,
#include "../kernels.inc"
};

}  // namespace

const TransposeLoops& find_transpose(Isa isa) {
  return find_loops(kLoops, isa, "matrices");
}

}  // namespace nested_sparse
