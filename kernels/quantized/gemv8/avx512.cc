// AVX-512 (F, DQ, BW, VL) without dot products of bytes.
#include "avx2.h"

namespace nested_sparse {
namespace {

struct Bytes16 : BytesInPairs {
  using Vec = __m512i;
  static constexpr int kLanes = 16;
  static Vec zero() { return _mm512_setzero_si512(); }
  static Vec dot(Vec sums, const int8_t* val, Input x) {
    const __m512i weights = _mm512_loadu_si512(val);
    const __m512i even = _mm512_srai_epi16(_mm512_slli_epi16(weights, 8), 8);
    const __m512i odd = _mm512_srai_epi16(weights, 8);
    sums = _mm512_add_epi32(sums, _mm512_madd_epi16(even, _mm512_set1_epi32(as_signed(x.even))));
    return _mm512_add_epi32(sums, _mm512_madd_epi16(odd, _mm512_set1_epi32(as_signed(x.odd))));
  }
  static void store(Sum* to, Vec sums) { _mm512_storeu_si512(to, sums); }
};

struct Floats16 : FloatsByColumn {
  using Vec = __m512;
  static constexpr int kLanes = 16;
  static Vec zero() { return _mm512_setzero_ps(); }
  static Vec dot(Vec sums, const int8_t* val, Input x) {
    const __m512i weights = _mm512_loadu_si512(val);
    sums = add_column(sums, _mm512_slli_epi32(weights, 24), x.at(0));
    sums = add_column(sums, _mm512_slli_epi32(weights, 16), x.at(1));
    sums = add_column(sums, _mm512_slli_epi32(weights, 8), x.at(2));
    return add_column(sums, weights, x.at(3));
  }
  static Vec add_column(Vec sums, __m512i top, const float* x) {
    return _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_srai_epi32(top, 24)), _mm512_set1_ps(*x), sums);
  }
  static void store(Sum* to, Vec sums) { _mm512_storeu_ps(to, sums); }
};

template <int V>
using BytesOf = VectorOf<V, Bytes4, Bytes8, Bytes16>;
template <int V>
using FloatsOf = VectorOf<V, Floats4, Floats8, Floats16>;

}  // namespace

#define NESTED_SPARSE_LIST_AVX512
#include "define_kernels.inc"

}  // namespace nested_sparse
