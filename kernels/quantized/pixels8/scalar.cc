#include "loops.h"

namespace nested_sparse {

extern const PixelLoops pixels8_scalar = loops_for(Isa::scalar);

}  // namespace nested_sparse
