// Vectors of x86: one name for the same instruction on 16, 32 and, with AVX-512, 64 bytes, and the vector type of
// tile.h over them. All instructions work within lanes of 16 bytes. Everything is in an unnamed namespace for the
// reason given in tile.h.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "../../isa.h"
#include "tile.h"

namespace nested_sparse {
namespace {

#define NESTED_SPARSE_NARROW(name, instruction)             \
  NESTED_SPARSE_INLINE __m128i name(__m128i a, __m128i b) { \
    return _mm_##instruction(a, b);                         \
  }                                                         \
  NESTED_SPARSE_INLINE __m256i name(__m256i a, __m256i b) { \
    return _mm256_##instruction(a, b);                      \
  }
#if defined(__AVX512BW__)
#define NESTED_SPARSE_WIDTHS(name, instruction)             \
  NESTED_SPARSE_NARROW(name, instruction)                   \
  NESTED_SPARSE_INLINE __m512i name(__m512i a, __m512i b) { \
    return _mm512_##instruction(a, b);                      \
  }
#else
#define NESTED_SPARSE_WIDTHS NESTED_SPARSE_NARROW
#endif

NESTED_SPARSE_WIDTHS(low_bytes, unpacklo_epi8)
NESTED_SPARSE_WIDTHS(high_bytes, unpackhi_epi8)
NESTED_SPARSE_WIDTHS(low_words, unpacklo_epi16)
NESTED_SPARSE_WIDTHS(high_words, unpackhi_epi16)
NESTED_SPARSE_WIDTHS(pack_sums, packs_epi32)
NESTED_SPARSE_WIDTHS(pack_words, packus_epi16)
NESTED_SPARSE_WIDTHS(shift_sums, srav_epi32)
NESTED_SPARSE_WIDTHS(multiply_rounded, mulhrs_epi16)
NESTED_SPARSE_WIDTHS(multiply_high, mulhi_epu16)
NESTED_SPARSE_WIDTHS(multiply_pairs, madd_epi16)
NESTED_SPARSE_WIDTHS(add_words, adds_epi16)
NESTED_SPARSE_WIDTHS(add_sums, add_epi32)
NESTED_SPARSE_WIDTHS(max_bytes, max_epu8)
NESTED_SPARSE_WIDTHS(min_bytes, min_epu8)
#undef NESTED_SPARSE_WIDTHS
#undef NESTED_SPARSE_NARROW

NESTED_SPARSE_INLINE int32_t load_int32(const void* p) {
  int32_t value;
  std::memcpy(&value, p, sizeof value);
  return value;
}

// Loads, stores and copies of one number to every element.
struct Xmm {
  using Vec = __m128i;
  static Vec load(const void* p) { return _mm_loadu_si128(static_cast<const Vec*>(p)); }
  static void store(void* p, Vec v) { _mm_storeu_si128(static_cast<Vec*>(p), v); }
  static Vec bytes(uint8_t value) { return _mm_set1_epi8(static_cast<char>(value)); }
  static Vec words(int16_t value) { return _mm_set1_epi16(value); }
  static Vec sums(int32_t value) { return _mm_set1_epi32(value); }
  template <int I>
  static __m128i lane(Vec v) {
    return v;
  }
};

struct Ymm {
  using Vec = __m256i;
  static Vec load(const void* p) { return _mm256_loadu_si256(static_cast<const Vec*>(p)); }
  static void store(void* p, Vec v) { _mm256_storeu_si256(static_cast<Vec*>(p), v); }
  static Vec bytes(uint8_t value) { return _mm256_set1_epi8(static_cast<char>(value)); }
  static Vec words(int16_t value) { return _mm256_set1_epi16(value); }
  static Vec sums(int32_t value) { return _mm256_set1_epi32(value); }
  template <int I>
  static __m128i lane(Vec v) {
    return _mm256_extracti128_si256(v, I);
  }
};

#if defined(__AVX512BW__)
struct Zmm {
  using Vec = __m512i;
  static Vec load(const void* p) { return _mm512_loadu_si512(p); }
  static void store(void* p, Vec v) { _mm512_storeu_si512(p, v); }
  static Vec bytes(uint8_t value) { return _mm512_set1_epi8(static_cast<char>(value)); }
  static Vec words(int16_t value) { return _mm512_set1_epi16(value); }
  static Vec sums(int32_t value) { return _mm512_set1_epi32(value); }
  template <int I>
  static __m128i lane(Vec v) {
    return _mm512_extracti32x4_epi32(v, I);
  }
};

NESTED_SPARSE_INLINE __m128i selected(uint64_t keep, __m128i a, __m128i b) {
  return _mm_mask_blend_epi8(static_cast<__mmask16>(keep), b, a);
}
NESTED_SPARSE_INLINE __m256i selected(uint64_t keep, __m256i a, __m256i b) {
  return _mm256_mask_blend_epi8(static_cast<__mmask32>(keep), b, a);
}
NESTED_SPARSE_INLINE __m512i selected(uint64_t keep, __m512i a, __m512i b) {
  return _mm512_mask_blend_epi8(static_cast<__mmask64>(keep), b, a);
}
#else
// Bit i of `keep` decides byte i: it is copied to a whole byte, where it is tested.
NESTED_SPARSE_INLINE __m128i selected(uint64_t keep, __m128i a, __m128i b) {
  const __m128i of_byte = _mm_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1);
  const __m128i bit = _mm_set1_epi64x(static_cast<int64_t>(0x8040201008040201));
  const __m128i bits = _mm_and_si128(_mm_shuffle_epi8(_mm_set1_epi64x(static_cast<int64_t>(keep)), of_byte), bit);
  return _mm_blendv_epi8(b, a, _mm_cmpeq_epi8(bits, bit));
}
NESTED_SPARSE_INLINE __m256i selected(uint64_t keep, __m256i a, __m256i b) {
  const __m256i of_byte =
      _mm256_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3);
  const __m256i bit = _mm256_set1_epi64x(static_cast<int64_t>(0x8040201008040201));
  const __m256i bits =
      _mm256_and_si256(_mm256_shuffle_epi8(_mm256_set1_epi64x(static_cast<int64_t>(keep)), of_byte), bit);
  return _mm256_blendv_epi8(b, a, _mm256_cmpeq_epi8(bits, bit));
}
#endif

// Replaces each byte by table[byte]. It is not inlined: it would be half of the code.
__attribute__((noinline, unused)) void look_up(uint8_t* bytes, int64_t count, const uint8_t* table) {
  for (int64_t i = 0; i < count; ++i) bytes[i] = table[bytes[i]];
}

template <class V>
NESTED_SPARSE_INLINE typename V::Vec looked_up(typename V::Vec bytes, const uint8_t* table) {
  alignas(64) uint8_t each[sizeof(bytes)];
  V::store(each, bytes);
  look_up(each, sizeof(bytes), table);
  return V::load(each);
}

#if defined(__AVX512BW__)
// The same with AVX512_VBMI, which this file is not compiled for.
NESTED_SPARSE_INLINE __m512i permuted(__m512i bytes, const uint8_t* table) {
  __m512i low = bytes;
  __m512i high = bytes;
  asm("vpermi2b %2, %1, %0" : "+v"(low) : "v"(Zmm::load(table)), "v"(Zmm::load(table + 64)));
  asm("vpermi2b %2, %1, %0" : "+v"(high) : "v"(Zmm::load(table + 128)), "v"(Zmm::load(table + 192)));
  return _mm512_mask_blend_epi8(_mm512_movepi8_mask(bytes), low, high);
}
NESTED_SPARSE_INLINE __m256i permuted(__m256i bytes, const uint8_t* table) {
  return _mm512_castsi512_si256(permuted(_mm512_castsi256_si512(bytes), table));
}
NESTED_SPARSE_INLINE __m128i permuted(__m128i bytes, const uint8_t* table) {
  return _mm512_castsi512_si128(permuted(_mm512_castsi128_si512(bytes), table));
}
#endif

// The vector type of tile.h whose registers hold as many pixels as bytes. Interleaving leaves the sums of pixels 16 l
// to 16 l + 15 in lane l of four registers; the packs of the epilogue restore their order.
//
// Dot: what becomes of the four interleaved registers, and how they are multiplied.
template <class V, class Dot, int Rows>
struct InLanes {
  using Vec = typename V::Vec;
  static constexpr int kPixels = sizeof(Vec);
  static constexpr int kRows = Rows;
  static constexpr int kSubtracted = 0;
  struct Sums {
    Vec of[4];
  };
  struct Words {
    Vec low, high;
  };
  struct Limits {
    Vec lo, hi, residual_multiplier, zero, half;
    bool permutes;
  };

  static Sums start(int32_t bias) { return {{V::sums(bias), V::sums(bias), V::sums(bias), V::sums(bias)}}; }

  NESTED_SPARSE_INLINE static auto quad(const uint8_t* a, const uint8_t* b, const uint8_t* c, const uint8_t* d) {
    return Dot::quad(V::load(a), V::load(b), V::load(c), V::load(d));
  }
  template <int R>
  NESTED_SPARSE_INLINE static auto weights(const int8_t* val) {
    return typename Dot::template Weights<R>(val);
  }
  template <class Quad, class Weights>
  NESTED_SPARSE_INLINE static void multiply(Sums& sums, const Quad& quad, const Weights& weights, int r) {
    Dot::multiply(sums.of, quad, weights, r);
  }

  template <int Lane>
  NESTED_SPARSE_INLINE static void store_lanes(int32_t* to, const Sums& sums) {
    NESTED_SPARSE_UNROLL
    for (int i = 0; i < 4; ++i) Xmm::store(to + 16 * Lane + 4 * i, V::template lane<Lane>(sums.of[i]));
    if constexpr (Lane > 0) store_lanes<Lane - 1>(to, sums);
  }
  NESTED_SPARSE_INLINE static void store_sums(int32_t* to, const Sums& sums) {
    store_lanes<sizeof(Vec) / 16 - 1>(to, sums);
  }

  static Limits limits(uint8_t lo, uint8_t hi, int32_t residual_multiplier) {
    const auto multiplier = static_cast<int16_t>(residual_multiplier);
    return {V::bytes(lo), V::bytes(hi), V::words(multiplier), V::bytes(0), V::words(4096), has_vbmi()};
  }

  NESTED_SPARSE_INLINE static Words words(const Sums& sums, const int32_t* shift) {
    const Vec count = V::sums(*shift);
    return {pack_sums(shift_sums(sums.of[0], count), shift_sums(sums.of[1], count)),
            pack_sums(shift_sums(sums.of[2], count), shift_sums(sums.of[3], count))};
  }
  NESTED_SPARSE_INLINE static Words scaled(Words words, int16_t multiplier) {
    const Vec by = V::words(multiplier);
    return {multiply_rounded(words.low, by), multiply_rounded(words.high, by)};
  }
  NESTED_SPARSE_INLINE static Words added(Words words, const uint8_t* residual, const Limits& limits) {
    const Vec bytes = V::load(residual);
    return {add_words(words.low, multiply_high(low_bytes(limits.zero, bytes), limits.residual_multiplier)),
            add_words(words.high, multiply_high(high_bytes(limits.zero, bytes), limits.residual_multiplier))};
  }
  // (t + 4) >> 3 is the high part of t * 4096, rounded.
  NESTED_SPARSE_INLINE static Vec bytes(Words words, const Limits& limits) {
    const Vec bytes = pack_words(multiply_rounded(words.low, limits.half), multiply_rounded(words.high, limits.half));
    return min_bytes(max_bytes(bytes, limits.lo), limits.hi);
  }
  NESTED_SPARSE_INLINE static Vec looked_up(Vec bytes, const uint8_t* table, [[maybe_unused]] const Limits& limits) {
#if defined(__AVX512BW__)
    if (limits.permutes) return permuted(bytes, table);
#endif
    return nested_sparse::looked_up<V>(bytes, table);
  }
  NESTED_SPARSE_INLINE static Vec selected(uint64_t keep, Vec bytes, uint8_t pad) {
    return nested_sparse::selected(keep, bytes, V::bytes(pad));
  }
  NESTED_SPARSE_INLINE static void store(uint8_t* to, Vec bytes) { V::store(to, bytes); }
};

// Four registers in which each 32-bit element holds one pixel's bytes of the four columns.
template <class V>
struct Interleaved {
  typename V::Vec of[4];
};
template <class V>
NESTED_SPARSE_INLINE Interleaved<V> interleaved(typename V::Vec a, typename V::Vec b, typename V::Vec c,
                                                typename V::Vec d) {
  const auto ab_low = low_bytes(a, b);
  const auto ab_high = high_bytes(a, b);
  const auto cd_low = low_bytes(c, d);
  const auto cd_high = high_bytes(c, d);
  return {{low_words(ab_low, cd_low), high_words(ab_low, cd_low), low_words(ab_high, cd_high),
           high_words(ab_high, cd_high)}};
}

}  // namespace
}  // namespace nested_sparse
