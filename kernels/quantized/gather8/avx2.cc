#include <immintrin.h>

#include "copies.h"

namespace nested_sparse {
namespace {

struct Avx2 {
  static __m128i load(const uint8_t* p) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)); }
  static __m128i load8(const uint8_t* p) { return _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)); }
  static void copy(uint8_t* to, const uint8_t* from) { _mm_storeu_si128(reinterpret_cast<__m128i*>(to), load(from)); }
  // The even bytes of `a`, then the odd bytes of `b`. So the second load ends with the last byte of the run.
  static __m128i picked(__m128i a, __m128i b) {
    return _mm_packus_epi16(_mm_and_si128(a, _mm_set1_epi16(255)), _mm_srli_epi16(b, 8));
  }
  static void every_second16(uint8_t* to, const uint8_t* from) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), picked(load(from), load(from + 15)));
  }
  static void every_second8(uint8_t* to, const uint8_t* from) {
    const __m128i both = picked(load8(from), load8(from + 7));  // four of each load, in the lower half of its eight
    _mm_storel_epi64(reinterpret_cast<__m128i*>(to), _mm_shuffle_epi32(both, 0x08));
  }
};

}  // namespace

void gather8_avx2(const Gather8Args& args) {
  gather_copies<Avx2>(args);
}

}  // namespace nested_sparse
