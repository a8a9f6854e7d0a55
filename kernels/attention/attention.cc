#include "attention.h"

#include "../find_loops.h"
#include "../kernels.h"

namespace nested_sparse {
namespace {

constexpr const HeadLoops* kLoops[] = {
#define ATTENTION_KERNEL(isa, symbol) &symbol,
#include "../kernels.inc"
};

}  // namespace

const HeadLoops& find_attention(Isa isa) {
  return find_loops(kLoops, isa, "heads");
}

}  // namespace nested_sparse
