#include "attention.h"

#include <stdexcept>
#include <string>

#include "../kernels.h"

namespace nested_sparse {
namespace {

constexpr const HeadLoops* kLoops[] = {
#define ATTENTION_KERNEL(isa, symbol) &symbol,
#include "../kernels.inc"
};

}  // namespace

const HeadLoops& find_attention(Isa isa) {
  for (const HeadLoops* loops : kLoops) {
    if (loops->isa == isa) return *loops;
  }
  throw std::invalid_argument(std::string("no loops over heads for ") + isa_name(isa));
}

}  // namespace nested_sparse
