#include "loops.h"

namespace nested_sparse {

extern const PixelLoops pixels8_avx512 = loops_for(Isa::avx512);

}  // namespace nested_sparse
