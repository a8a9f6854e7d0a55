#include "pixels8.h"

#include <stdexcept>
#include <string>

#include "../../kernels.h"

namespace nested_sparse {
namespace {

constexpr const PixelLoops* kPixelLoops[] = {
#define PIXELS8_KERNEL(isa, symbol) &symbol,
#include "../../kernels.inc"
};

}  // namespace

const PixelLoops& find_pixel_loops(Isa isa) {
  for (const PixelLoops* loops : kPixelLoops) {
    if (loops->isa == isa) return *loops;
  }
  throw std::invalid_argument(std::string("no loops over pixels for ") + isa_name(isa));
}

}  // namespace nested_sparse
