// Dot products of VNNI: AVX-512's, or where the file is compiled without AVX-512, AVX-VNNI's.
#pragma once

#include "x86.h"

namespace nested_sparse {
namespace {

// gcc 12 copies every sum before and after the intrinsic; a quad then takes a fifth longer.
#if defined(__AVX512BW__)
NESTED_SPARSE_INLINE void dot(__m512i& sums, __m512i pixels, __m512i weights) {
  asm("vpdpbusd %2, %1, %0" : "+v"(sums) : "v"(pixels), "v"(weights));
}
NESTED_SPARSE_INLINE void dot(__m256i& sums, __m256i pixels, __m256i weights) {
  asm("vpdpbusd %2, %1, %0" : "+v"(sums) : "v"(pixels), "v"(weights));
}
NESTED_SPARSE_INLINE void dot(__m128i& sums, __m128i pixels, __m128i weights) {
  asm("vpdpbusd %2, %1, %0" : "+v"(sums) : "v"(pixels), "v"(weights));
}
#else
NESTED_SPARSE_INLINE void dot(__m256i& sums, __m256i pixels, __m256i weights) {
  asm("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sums) : "x"(pixels), "x"(weights));
}
NESTED_SPARSE_INLINE void dot(__m128i& sums, __m128i pixels, __m128i weights) {
  asm("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sums) : "x"(pixels), "x"(weights));
}
#endif

template <class V>
struct Vnni {
  using Vec = typename V::Vec;
  using Quad = Interleaved<V>;
  template <int R>
  struct Weights {
    const int8_t* val;
    explicit Weights(const int8_t* val) : val(val) {}
  };
  NESTED_SPARSE_INLINE static Quad quad(Vec a, Vec b, Vec c, Vec d) { return interleaved<V>(a, b, c, d); }
  template <class W>
  NESTED_SPARSE_INLINE static void multiply(Vec (&sums)[4], const Quad& quad, const W& weights, int r) {
    const Vec weight = V::sums(load_int32(weights.val + 4 * r));
    NESTED_SPARSE_UNROLL
    for (int i = 0; i < 4; ++i) dot(sums[i], quad.of[i], weight);
  }
};

}  // namespace
}  // namespace nested_sparse
