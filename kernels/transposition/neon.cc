#include "../kernels.h"
#include "loops.h"

namespace nested_sparse {

using Loops = Transposition<Four>;
extern const TransposeLoops transpose_neon = {Isa::neon, Loops::kLanes, Loops::pack, Loops::finish};

}  // namespace nested_sparse
