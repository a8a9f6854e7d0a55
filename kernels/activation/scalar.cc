#include "../kernels.h"
#include "loops.h"

namespace nested_sparse {

void activate_scalar(Activation activation, int64_t count, float* y) {
  activate(activation, count, y);
}

}  // namespace nested_sparse
