// Vectors of eight and four rows for AVX2, and for AVX-512 without dot products of bytes. Everything is in an unnamed
// namespace for the reason given in rows.h.
#pragma once

#include <immintrin.h>

#include "inputs.h"
#include "rows.h"

namespace nested_sparse {
namespace {

constexpr int32_t as_signed(uint32_t bits) {
  return static_cast<int32_t>(bits);
}

// Weights are widened to 16 bits in place, those of even and of odd columns apart. So no sum of two products can
// saturate, and no byte has to move.
struct BytesInPairs {
  using Sum = uint32_t;
  using Input = Pairs;
  static constexpr int kStreams = 4;
  static constexpr int32_t kBias = 0;
  static Input input(const uint8_t* x, const uint16_t* col) { return pairs_at(x, col); }
};

struct Bytes8 : BytesInPairs {
  using Vec = __m256i;
  static constexpr int kLanes = 8;
  static Vec zero() { return _mm256_setzero_si256(); }
  static Vec dot(Vec sums, const int8_t* val, Input x) {
    const __m256i weights = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(val));
    const __m256i even = _mm256_srai_epi16(_mm256_slli_epi16(weights, 8), 8);
    const __m256i odd = _mm256_srai_epi16(weights, 8);
    sums = _mm256_add_epi32(sums, _mm256_madd_epi16(even, _mm256_set1_epi32(as_signed(x.even))));
    return _mm256_add_epi32(sums, _mm256_madd_epi16(odd, _mm256_set1_epi32(as_signed(x.odd))));
  }
  static void store(Sum* to, Vec sums) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), sums); }
};

struct Bytes4 : BytesInPairs {
  using Vec = __m128i;
  static constexpr int kLanes = 4;
  static Vec zero() { return _mm_setzero_si128(); }
  static Vec dot(Vec sums, const int8_t* val, Input x) {
    const __m128i weights = _mm_loadu_si128(reinterpret_cast<const __m128i*>(val));
    const __m128i even = _mm_srai_epi16(_mm_slli_epi16(weights, 8), 8);
    const __m128i odd = _mm_srai_epi16(weights, 8);
    sums = _mm_add_epi32(sums, _mm_madd_epi16(even, _mm_set1_epi32(as_signed(x.even))));
    return _mm_add_epi32(sums, _mm_madd_epi16(odd, _mm_set1_epi32(as_signed(x.odd))));
  }
  static void store(Sum* to, Vec sums) { _mm_storeu_si128(reinterpret_cast<__m128i*>(to), sums); }
};

struct FloatsByColumn {
  using Sum = float;
  using Input = Floats;
  static constexpr int kStreams = 4;
  static constexpr int32_t kBias = 0;
  static Input input(const float* x, const uint16_t* col) { return floats_at(x, col); }
};

struct Floats8 : FloatsByColumn {
  using Vec = __m256;
  static constexpr int kLanes = 8;
  static Vec zero() { return _mm256_setzero_ps(); }
  static Vec dot(Vec sums, const int8_t* val, Input x) {
    const __m256i weights = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(val));
    sums = add_column(sums, _mm256_slli_epi32(weights, 24), x.at(0));
    sums = add_column(sums, _mm256_slli_epi32(weights, 16), x.at(1));
    sums = add_column(sums, _mm256_slli_epi32(weights, 8), x.at(2));
    return add_column(sums, weights, x.at(3));
  }
  // top: lanes whose highest byte is the weight
  static Vec add_column(Vec sums, __m256i top, const float* x) {
    return _mm256_fmadd_ps(_mm256_cvtepi32_ps(_mm256_srai_epi32(top, 24)), _mm256_broadcast_ss(x), sums);
  }
  static void store(Sum* to, Vec sums) { _mm256_storeu_ps(to, sums); }
};

struct Floats4 : FloatsByColumn {
  using Vec = __m128;
  static constexpr int kLanes = 4;
  static Vec zero() { return _mm_setzero_ps(); }
  static Vec dot(Vec sums, const int8_t* val, Input x) {
    const __m128i weights = _mm_loadu_si128(reinterpret_cast<const __m128i*>(val));
    sums = add_column(sums, _mm_slli_epi32(weights, 24), x.at(0));
    sums = add_column(sums, _mm_slli_epi32(weights, 16), x.at(1));
    sums = add_column(sums, _mm_slli_epi32(weights, 8), x.at(2));
    return add_column(sums, weights, x.at(3));
  }
  static Vec add_column(Vec sums, __m128i top, const float* x) {
    return _mm_fmadd_ps(_mm_cvtepi32_ps(_mm_srai_epi32(top, 24)), _mm_broadcast_ss(x), sums);
  }
  static void store(Sum* to, Vec sums) { _mm_storeu_ps(to, sums); }
};

}  // namespace
}  // namespace nested_sparse
