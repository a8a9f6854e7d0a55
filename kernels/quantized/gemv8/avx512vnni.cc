// AVX-512 with VNNI.
#include "vnni.h"

namespace nested_sparse {
namespace {

struct Bytes16 : BytesInDots {
  using Vec = __m512i;
  static constexpr int kLanes = 16;
  static Vec zero() { return _mm512_setzero_si512(); }
  static Vec dot(Vec sums, const int8_t* val, Input x) { return with_dot(sums, val, _mm512_set1_epi32(x)); }
  static void store(Sum* to, Vec sums) { _mm512_storeu_si512(to, sums); }
};

template <int V>
using BytesOf = VectorOf<V, Bytes4, Bytes8, Bytes16>;

}  // namespace

#define NESTED_SPARSE_LIST_AVX512VNNI
#include "define_kernels.inc"

}  // namespace nested_sparse
