#include <immintrin.h>

#include "loops.h"

namespace nested_sparse {
namespace {

struct Avx512 {
  using Vec = float __attribute__((vector_size(64)));
  using Bits = uint32_t __attribute__((vector_size(64)));
  static Vec larger(Vec a, Vec b) { return _mm512_max_ps(a, b); }
};
using Loops = Head<Avx512, 8>;

}  // namespace

extern const HeadLoops attention_avx512 = {Isa::avx512, Loops::packed, Loops::single, Loops::kLanes, Loops::kPanel, 8};

}  // namespace nested_sparse
