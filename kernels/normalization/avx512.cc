#include "../kernels.h"
#include "loops.h"

namespace nested_sparse {

extern const NormalizeLoop normalize_avx512 = {Isa::avx512, Normalization<16>::run};

}  // namespace nested_sparse
