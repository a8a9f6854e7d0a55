#include "loops.h"

namespace nested_sparse {
namespace {

struct Scalar {
  using Vec = float __attribute__((vector_size(16)));
  using Bits = uint32_t __attribute__((vector_size(16)));
  static Vec larger(Vec a, Vec b) { return a > b ? a : b; }
};
using Loops = Head<Scalar, 4>;

}  // namespace

extern const HeadLoops attention_scalar = {Isa::scalar, Loops::packed, Loops::single, Loops::kLanes, Loops::kPanel, 4};

}  // namespace nested_sparse
