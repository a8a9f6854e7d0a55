// find_loops: the loops of an instruction set, of a list that kernels.inc gives.
#pragma once

#include <stdexcept>
#include <string>

#include "isa.h"

namespace nested_sparse {

// what: the data that the loops go over, in words. Throws std::invalid_argument where none is built for `isa`.
template <class Loops, size_t count>
const Loops& find_loops(const Loops* const (&list)[count], Isa isa, const char* what) {
  for (const Loops* loops : list) {
    if (loops->isa == isa) return *loops;
  }
  throw std::invalid_argument(std::string("no loops over ") + what + " for " + isa_name(isa));
}

}  // namespace nested_sparse
