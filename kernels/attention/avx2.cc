#include <immintrin.h>

#include "loops.h"

namespace nested_sparse {
namespace {

struct Avx2 {
  using Vec = float __attribute__((vector_size(32)));
  using Bits = uint32_t __attribute__((vector_size(32)));
  static Vec larger(Vec a, Vec b) { return _mm256_max_ps(a, b); }
};
using Loops = Head<Avx2, 6>;

}  // namespace

extern const HeadLoops attention_avx2 = {Isa::avx2, Loops::packed, Loops::single, Loops::kLanes, Loops::kPanel, 6};

}  // namespace nested_sparse
