#include "../kernels.h"
#include "loops.h"

namespace nested_sparse {

void activate_neon(Activation activation, int64_t count, float* y) {
  activate(activation, count, y);
}

void scale_neon(int64_t count, const float* x, float scale, float shift, Clip bounds, float* y) {
  scale_values(count, x, scale, shift, bounds, y);
}

}  // namespace nested_sparse
