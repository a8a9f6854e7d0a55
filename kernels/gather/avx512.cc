// AVX-512F. Masked loads read only the lanes of their mask.
#include <immintrin.h>

#include "pieces.h"

namespace nested_sparse {
namespace {

struct Avx512 {
  using Vec = __m512;
  static constexpr int kLanes = 16;
  template <int Step>
  static Vec load_piece(const float* p, uint32_t mask) {
    const __m512 low = _mm512_maskz_loadu_ps(static_cast<__mmask16>(mask), p);
    if constexpr (Step == 1) return low;
    const __m512 high = _mm512_maskz_loadu_ps(static_cast<__mmask16>(mask >> 16), p + 16);
    const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    return _mm512_permutex2var_ps(low, even, high);
  }
  static Vec load(const float* p) { return _mm512_loadu_ps(p); }
  static Vec merge(Vec a, Vec b) {
    return _mm512_castsi512_ps(_mm512_or_si512(_mm512_castps_si512(a), _mm512_castps_si512(b)));
  }
  static Vec max(Vec a, Vec b) {  // the instruction returns its second operand where either is NaN
    return _mm512_mask_mov_ps(_mm512_max_ps(a, b), _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q), a);
  }
  static void store(float* p, Vec v) { _mm512_storeu_ps(p, v); }
  static Vec splat(float value) { return _mm512_set1_ps(value); }
  static Vec fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }
};

}  // namespace

void gather_avx512(const GatherArgs& args) {
  gather<Avx512>(args);
}

void depthwise_avx512(const DepthwiseArgs& args) {
  depthwise<Avx512>(args);
}

void max_rows_avx512(const float* rows, int64_t taps, int64_t count, float* y) {
  max_rows<Avx512>(rows, taps, count, y);
}

}  // namespace nested_sparse
