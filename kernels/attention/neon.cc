#include "loops.h"

namespace nested_sparse {
namespace {

struct Neon {
  using Vec = float __attribute__((vector_size(16)));
  using Bits = uint32_t __attribute__((vector_size(16)));
  static Vec larger(Vec a, Vec b) { return a > b ? a : b; }
};
using Loops = Head<Neon, 8>;

}  // namespace

extern const HeadLoops attention_neon = {Isa::neon, Loops::packed, Loops::single, Loops::kLanes, Loops::kPanel, 8};

}  // namespace nested_sparse
