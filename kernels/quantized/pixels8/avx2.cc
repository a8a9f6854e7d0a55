#include "loops.h"

namespace nested_sparse {

extern const PixelLoops pixels8_avx2 = loops_for(Isa::avx2);

}  // namespace nested_sparse
