#include "../kernels.h"
#include "loops.h"

namespace nested_sparse {

extern const NormalizeLoop normalize_neon = {Isa::neon, Normalization<4>::run};

}  // namespace nested_sparse
