// Weights widened to 16 bits, for the exact products of instruction sets of x86 without dot products of bytes.
#pragma once

#include "x86.h"

namespace nested_sparse {
namespace {

// The weights of R rows: a, b, c, d of each. They go through memory, from which pairs are copied to every element of a
// vector without a shuffle.
template <int R>
struct Widened {
  alignas(32) int16_t of[R][4];

  NESTED_SPARSE_INLINE explicit Widened(const int8_t* val) {
    if constexpr (R == 1) {
      _mm_storel_epi64(reinterpret_cast<__m128i*>(of), _mm_cvtepi8_epi16(_mm_cvtsi32_si128(load_int32(val))));
    } else if constexpr (R == 2) {
      Xmm::store(of, _mm_cvtepi8_epi16(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(val))));
    } else {
      static_assert(R == 4, "at most four rows");
      Ymm::store(of, _mm256_cvtepi8_epi16(Xmm::load(val)));
    }
    asm("" : "+m"(of));  // or else gcc shuffles
  }
  template <class V>
  NESTED_SPARSE_INLINE typename V::Vec ab(int r) const {
    return V::sums(load_int32(of[r]));
  }
  template <class V>
  NESTED_SPARSE_INLINE typename V::Vec cd(int r) const {
    return V::sums(load_int32(of[r] + 2));
  }
};

}  // namespace
}  // namespace nested_sparse
