#include "gates.h"

#include <stdexcept>
#include <string>

#include "../kernels.h"

namespace nested_sparse {
namespace {

constexpr const GateLoops* kGates[] = {
#define GATES_KERNEL(isa, symbol) &symbol,
#include "../kernels.inc"
};

}  // namespace

const GateLoops& find_gates(Isa isa) {
  for (const GateLoops* loops : kGates) {
    if (loops->isa == isa) return *loops;
  }
  throw std::invalid_argument(std::string("no loops over gates for ") + isa_name(isa));
}

}  // namespace nested_sparse
