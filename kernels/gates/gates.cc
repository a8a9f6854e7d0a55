#include "gates.h"

#include "../find_loops.h"
#include "../kernels.h"

namespace nested_sparse {
namespace {

constexpr const GateLoops* kGates[] = {
#define GATES_KERNEL(isa, symbol) &symbol,
#include "../kernels.inc"
};

}  // namespace

const GateLoops& find_gates(Isa isa) {
  return find_loops(kGates, isa, "gates");
}

}  // namespace nested_sparse
