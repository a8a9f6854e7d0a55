#include "../kernels.h"
#include "loops.h"

namespace nested_sparse {

extern const NormalizeLoop normalize_avx2 = {Isa::avx2, Normalization<8>::run};

}  // namespace nested_sparse
