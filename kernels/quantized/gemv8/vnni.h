// Vectors of eight and four rows for processors with dot products of bytes, in AVX-512 or in AVX. Everything is in an
// unnamed namespace for the reason given in rows.h.
#pragma once

#include <immintrin.h>

#include "inputs.h"
#include "rows.h"

namespace nested_sparse {
namespace {

#ifdef __AVX512VL__
#define NESTED_SPARSE_DOT "vpdpbusd"
#else
#define NESTED_SPARSE_DOT "%{vex%} vpdpbusd"
#endif

// gcc 12 copies sums around the intrinsic, so the instruction is written out.
template <class Register>
Register with_dot(Register sums, const int8_t* val, Register x) {
  __asm__(NESTED_SPARSE_DOT " %2, %1, %0" : "+v"(sums) : "v"(x), "m"(*reinterpret_cast<const Register*>(val)));
  return sums;
}

struct BytesInDots {
  using Sum = uint32_t;
  using Input = int32_t;
  static constexpr int kStreams = 4;
  static constexpr int32_t kBias = 0;
  static Input input(const uint8_t* x, const uint16_t* col) { return static_cast<int32_t>(bytes_at(x, col)); }
};

struct Bytes8 : BytesInDots {
  using Vec = __m256i;
  static constexpr int kLanes = 8;
  static Vec zero() { return _mm256_setzero_si256(); }
  static Vec dot(Vec sums, const int8_t* val, Input x) { return with_dot(sums, val, _mm256_set1_epi32(x)); }
  static void store(Sum* to, Vec sums) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), sums); }
};

struct Bytes4 : BytesInDots {
  using Vec = __m128i;
  static constexpr int kLanes = 4;
  static Vec zero() { return _mm_setzero_si128(); }
  static Vec dot(Vec sums, const int8_t* val, Input x) { return with_dot(sums, val, _mm_set1_epi32(x)); }
  static void store(Sum* to, Vec sums) { _mm_storeu_si128(reinterpret_cast<__m128i*>(to), sums); }
};

}  // namespace
}  // namespace nested_sparse
