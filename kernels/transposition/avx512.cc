#include <immintrin.h>

#include "../kernels.h"
#include "loops.h"

namespace nested_sparse {
namespace {

struct Avx512 {
  using Vec = __m512;
  static constexpr int64_t kLanes = 16;
  static Vec quads(const float* p, int64_t pitch) {
    Vec rows = _mm512_castps128_ps512(_mm_loadu_ps(p));
    rows = _mm512_insertf32x4(rows, _mm_loadu_ps(p + 4 * pitch), 1);
    rows = _mm512_insertf32x4(rows, _mm_loadu_ps(p + 8 * pitch), 2);
    return _mm512_insertf32x4(rows, _mm_loadu_ps(p + 12 * pitch), 3);
  }
  static Vec low(Vec a, Vec b) { return _mm512_unpacklo_ps(a, b); }
  static Vec high(Vec a, Vec b) { return _mm512_unpackhi_ps(a, b); }
  static Vec first(Vec a, Vec b) { return _mm512_shuffle_ps(a, b, 0x44); }
  static Vec second(Vec a, Vec b) { return _mm512_shuffle_ps(a, b, 0xEE); }
  static Vec load(const float* p) { return _mm512_loadu_ps(p); }
  static Vec add(Vec a, Vec b) { return _mm512_add_ps(a, b); }
  static Vec splat(float value) { return _mm512_set1_ps(value); }
  // min and max return their second operand where either is NaN.
  static Vec clip(Vec v, Vec lo, Vec hi) { return _mm512_min_ps(hi, _mm512_max_ps(lo, v)); }
  static void store(float* p, Vec v) { _mm512_storeu_ps(p, v); }
};

using Loops = Transposition<Avx512>;

}  // namespace

extern const TransposeLoops transpose_avx512 = {Isa::avx512, Loops::kLanes, Loops::pack, Loops::finish};

}  // namespace nested_sparse
