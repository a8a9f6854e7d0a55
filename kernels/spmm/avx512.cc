// AVX-512 (F, DQ, BW, VL): a vector has 16 pixels, and the 32 registers hold sums of at most 4 rows by 6 vectors.
// Blocks of 8 or 16 rows take several passes: with 8 rows by 3 vectors ResNet-50 was 2 to 4 % slower.
#include <immintrin.h>

#include "gather_groups.h"
#include "tile.h"
#include "values.h"

namespace nested_sparse {
namespace {

struct Avx512 {
  using Vec = __m512;
  struct Bounds {
    Vec lo, hi;
  };
  static constexpr int kLanes = 16;
  static constexpr bool kFetchEarly = true;

  static __mmask16 first(int n) { return static_cast<__mmask16>((1U << n) - 1U); }
  static Vec zero() { return _mm512_setzero_ps(); }
  static Vec load(const float* p) { return _mm512_loadu_ps(p); }
  static Vec load(const uint16_t* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static Vec load_first(const float* p, int n) { return _mm512_maskz_loadu_ps(first(n), p); }
  static Vec broadcast(const float* p) { return _mm512_set1_ps(*p); }
  static Vec splat(float value) { return _mm512_set1_ps(value); }
  static Vec fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }
  static Vec add(Vec a, Vec b) { return _mm512_add_ps(a, b); }
  // min and max return their second operand where either is NaN.
  static Vec clip(Vec v, Bounds b) { return _mm512_min_ps(b.hi, _mm512_max_ps(b.lo, v)); }
  static void store(float* p, Vec v) { _mm512_storeu_ps(p, v); }
  static void store_first(float* p, int n, Vec v) { _mm512_mask_storeu_ps(p, first(n), v); }
};

}  // namespace

#define NESTED_SPARSE_LIST_AVX512
#define SPMM_KERNEL(isa, symbol, block_rows, vectors, lanes, index, value)                          \
  void symbol(const SpmmArgs& args, int64_t group_begin, int64_t group_end) {                       \
    static_assert(lanes == Avx512::kLanes, "the list gives the pixels of a vector");                \
    constexpr int kRows = block_rows < 4 ? block_rows : 4;                                          \
    constexpr SpmmKernel floats = spmm<Avx512, Blocks<Avx512, block_rows, kRows, index>, vectors>;  \
    spmm_blocks<block_rows, ValueType::value>(floats, widen<Avx512>, args, group_begin, group_end); \
  }
#define GS_SPMM_KERNEL(isa, symbol, banks, vectors, lanes, index, value)                                      \
  void symbol(const SpmmArgs& args, int64_t row_begin, int64_t row_end) {                                     \
    constexpr SpmmKernel floats = spmm<Avx512, GatherGroups<Avx512, banks, index>, vectors>;                  \
    spmm_values<ValueType::value>(floats, widen<Avx512>, banks, banks / args.weight.per_row, args, row_begin, \
                                  row_end);                                                                   \
  }
#include "../kernels.inc"

}  // namespace nested_sparse
