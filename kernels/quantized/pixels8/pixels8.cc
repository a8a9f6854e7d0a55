#include "pixels8.h"

#include "../../find_loops.h"
#include "../../kernels.h"

namespace nested_sparse {
namespace {

constexpr const PixelLoops* kPixelLoops[] = {
#define PIXELS8_KERNEL(isa, symbol) &symbol,
#include "../../kernels.inc"
};

}  // namespace

const PixelLoops& find_pixel_loops(Isa isa) {
  return find_loops(kPixelLoops, isa, "pixels");
}

}  // namespace nested_sparse
