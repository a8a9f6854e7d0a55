#include "loops.h"

namespace nested_sparse {

extern const PixelLoops pixels8_neon = loops_for(Isa::neon);

}  // namespace nested_sparse
