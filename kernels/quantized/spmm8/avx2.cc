// AVX2: pairs of pixels, widened to 16 bits, times pairs of weights. vpmaddubsw would multiply bytes, but its sums of
// two products saturate. The sums of four rows by 16 pixels are in eight of the 16 registers.
#include "widened.h"

namespace nested_sparse {
namespace {

struct Pixels16 {
  static constexpr int kPixels = 16;
  static constexpr int kRows = 4;
  static constexpr int kSubtracted = 0;
  struct Sums {
    __m256i low, high;  // in the order of the pixels
  };
  struct Quad {
    __m256i of[4];  // columns a and b: pixels 0 to 7, 8 to 15; the same of c and d
  };
  struct Limits {
    __m128i lo, hi;
    __m256i residual_multiplier, half;
  };

  static Sums start(int32_t bias) { return {Ymm::sums(bias), Ymm::sums(bias)}; }

  NESTED_SPARSE_INLINE static Quad quad(const uint8_t* a, const uint8_t* b, const uint8_t* c, const uint8_t* d) {
    const __m128i va = Xmm::load(a);
    const __m128i vb = Xmm::load(b);
    const __m128i vc = Xmm::load(c);
    const __m128i vd = Xmm::load(d);
    return {{_mm256_cvtepu8_epi16(low_bytes(va, vb)), _mm256_cvtepu8_epi16(high_bytes(va, vb)),
             _mm256_cvtepu8_epi16(low_bytes(vc, vd)), _mm256_cvtepu8_epi16(high_bytes(vc, vd))}};
  }
  template <int R>
  NESTED_SPARSE_INLINE static Widened<R> weights(const int8_t* val) {
    return Widened<R>(val);
  }
  template <class W>
  NESTED_SPARSE_INLINE static void multiply(Sums& sums, const Quad& quad, const W& weights, int r) {
    const __m256i ab = weights.template ab<Ymm>(r);
    const __m256i cd = weights.template cd<Ymm>(r);
    sums.low = add_sums(sums.low, multiply_pairs(quad.of[0], ab));
    sums.high = add_sums(sums.high, multiply_pairs(quad.of[1], ab));
    sums.low = add_sums(sums.low, multiply_pairs(quad.of[2], cd));
    sums.high = add_sums(sums.high, multiply_pairs(quad.of[3], cd));
  }
  NESTED_SPARSE_INLINE static void store_sums(int32_t* to, const Sums& sums) {
    Ymm::store(to, sums.low);
    Ymm::store(to + 8, sums.high);
  }

  static Limits limits(uint8_t lo, uint8_t hi, int32_t residual_multiplier) {
    return {Xmm::bytes(lo), Xmm::bytes(hi), Ymm::words(static_cast<int16_t>(residual_multiplier)), Ymm::words(4096)};
  }
  NESTED_SPARSE_INLINE static __m256i words(const Sums& sums, const int32_t* shift) {
    const __m256i count = Ymm::sums(*shift);
    const __m256i packed = pack_sums(shift_sums(sums.low, count), shift_sums(sums.high, count));
    return _mm256_permute4x64_epi64(packed, 0xd8);  // the pack works within lanes
  }
  NESTED_SPARSE_INLINE static __m256i scaled(__m256i words, int16_t multiplier) {
    return multiply_rounded(words, Ymm::words(multiplier));
  }
  NESTED_SPARSE_INLINE static __m256i added(__m256i words, const uint8_t* residual, const Limits& limits) {
    const __m256i wide = _mm256_slli_epi16(_mm256_cvtepu8_epi16(Xmm::load(residual)), 8);
    return add_words(words, multiply_high(wide, limits.residual_multiplier));
  }
  // (t + 4) >> 3 is the high part of t * 4096, rounded.
  NESTED_SPARSE_INLINE static __m128i bytes(__m256i words, const Limits& limits) {
    const __m256i steps = multiply_rounded(words, limits.half);
    const __m128i bytes = pack_words(_mm256_castsi256_si128(steps), _mm256_extracti128_si256(steps, 1));
    return min_bytes(max_bytes(bytes, limits.lo), limits.hi);
  }
  NESTED_SPARSE_INLINE static __m128i looked_up(__m128i bytes, const uint8_t* table, const Limits&) {
    return nested_sparse::looked_up<Xmm>(bytes, table);
  }
  NESTED_SPARSE_INLINE static __m128i selected(uint64_t keep, __m128i bytes, uint8_t pad) {
    return nested_sparse::selected(keep, bytes, Xmm::bytes(pad));
  }
  NESTED_SPARSE_INLINE static void store(uint8_t* to, __m128i bytes) { Xmm::store(to, bytes); }
};

template <int V, class Args>
void run(const Args& args, int64_t group_begin, int64_t group_end) {
  run_tile<Pixels16, V>(args, group_begin, group_end);
}

}  // namespace

#define NESTED_SPARSE_LIST_AVX2
#define SPMM8_KERNEL(isa, dot, symbol, sums_symbol, block_rows) NESTED_SPARSE_SPMM8(symbol, sums_symbol, block_rows)
#include "../kernels.inc"

}  // namespace nested_sparse
