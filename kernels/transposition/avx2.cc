#include <immintrin.h>

#include "../kernels.h"
#include "loops.h"

namespace nested_sparse {
namespace {

struct Avx2 {
  using Vec = __m256;
  static constexpr int64_t kLanes = 8;
  static Vec quads(const float* p, int64_t pitch) {
    return _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(p)), _mm_loadu_ps(p + 4 * pitch), 1);
  }
  static Vec low(Vec a, Vec b) { return _mm256_unpacklo_ps(a, b); }
  static Vec high(Vec a, Vec b) { return _mm256_unpackhi_ps(a, b); }
  static Vec first(Vec a, Vec b) { return _mm256_shuffle_ps(a, b, 0x44); }
  static Vec second(Vec a, Vec b) { return _mm256_shuffle_ps(a, b, 0xEE); }
  static Vec load(const float* p) { return _mm256_loadu_ps(p); }
  static Vec add(Vec a, Vec b) { return _mm256_add_ps(a, b); }
  static Vec splat(float value) { return _mm256_set1_ps(value); }
  // min and max return their second operand where either is NaN.
  static Vec clip(Vec v, Vec lo, Vec hi) { return _mm256_min_ps(hi, _mm256_max_ps(lo, v)); }
  static void store(float* p, Vec v) { _mm256_storeu_ps(p, v); }
};

using Loops = Transposition<Avx2>;

}  // namespace

extern const TransposeLoops transpose_avx2 = {Isa::avx2, Loops::kLanes, Loops::pack, Loops::finish};

}  // namespace nested_sparse
