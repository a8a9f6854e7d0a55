#include "../kernels.h"
#include "loops.h"

namespace nested_sparse {

void activate_avx512(Activation activation, int64_t count, float* y) {
  activate(activation, count, y);
}

}  // namespace nested_sparse
