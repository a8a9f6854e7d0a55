// AVX2. Masked loads read only the lanes whose mask has its sign bit set.
#include <immintrin.h>

#include "pieces.h"

namespace nested_sparse {
namespace {

struct Avx2 {
  using Vec = __m256;
  static constexpr int kLanes = 8;
  static Vec load_masked(const float* p, uint32_t mask) {
    const __m256i bits = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    const __m256i chosen = _mm256_and_si256(_mm256_set1_epi32(static_cast<int>(mask)), bits);
    return _mm256_maskload_ps(p, _mm256_cmpeq_epi32(chosen, bits));
  }
  template <int Step>
  static Vec load_piece(const float* p, uint32_t mask) {
    const __m256 low = load_masked(p, mask);
    if constexpr (Step == 1) return low;
    const __m256 even = _mm256_shuffle_ps(low, load_masked(p + 8, mask >> 8), 0x88);
    return _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(even), 0xD8));
  }
  static Vec load(const float* p) { return _mm256_loadu_ps(p); }
  static Vec merge(Vec a, Vec b) { return _mm256_or_ps(a, b); }
  static Vec max(Vec a, Vec b) {  // the instruction returns its second operand where either is NaN
    return _mm256_blendv_ps(_mm256_max_ps(a, b), a, _mm256_cmp_ps(a, a, _CMP_UNORD_Q));
  }
  static void store(float* p, Vec v) { _mm256_storeu_ps(p, v); }
  static Vec splat(float value) { return _mm256_set1_ps(value); }
  static Vec fma(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a, b, c); }
};

}  // namespace

void gather_avx2(const GatherArgs& args) {
  gather<Avx2>(args);
}

void depthwise_avx2(const DepthwiseArgs& args) {
  depthwise<Avx2>(args);
}

void max_rows_avx2(const float* rows, int64_t taps, int64_t count, float* y) {
  max_rows<Avx2>(rows, taps, count, y);
}

}  // namespace nested_sparse
