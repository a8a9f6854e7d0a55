// AVX2 and FMA: a vector has 8 pixels, and the 16 registers hold sums of at most 12 vectors, such as 4 rows by 3.
#include <immintrin.h>

#include "gather_groups.h"
#include "tile.h"
#include "values.h"

namespace nested_sparse {
namespace {

struct Avx2 {
  using Vec = __m256;
  struct Bounds {
    Vec lo, hi;
  };
  static constexpr int kLanes = 8;
  static constexpr bool kFetchEarly = true;

  static __m256i first(int n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  }
  static Vec zero() { return _mm256_setzero_ps(); }
  static Vec load(const float* p) { return _mm256_loadu_ps(p); }
  static Vec load(const uint16_t* p) { return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); }
  static Vec load_first(const float* p, int n) { return _mm256_maskload_ps(p, first(n)); }
  static Vec broadcast(const float* p) { return _mm256_broadcast_ss(p); }
  static Vec splat(float value) { return _mm256_set1_ps(value); }
  static Vec fma(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a, b, c); }
  static Vec add(Vec a, Vec b) { return _mm256_add_ps(a, b); }
  // min and max return their second operand where either is NaN.
  static Vec clip(Vec v, Bounds b) { return _mm256_min_ps(b.hi, _mm256_max_ps(b.lo, v)); }
  static void store(float* p, Vec v) { _mm256_storeu_ps(p, v); }
  static void store_first(float* p, int n, Vec v) { _mm256_maskstore_ps(p, first(n), v); }
};

}  // namespace

#define NESTED_SPARSE_LIST_AVX2
#define SPMM_KERNEL(isa, symbol, block_rows, vectors, lanes, index, value)                        \
  void symbol(const SpmmArgs& args, int64_t group_begin, int64_t group_end) {                     \
    static_assert(lanes == Avx2::kLanes, "the list gives the pixels of a vector");                \
    constexpr int kRows = block_rows < 4 ? block_rows : 4;                                        \
    constexpr SpmmKernel floats = spmm<Avx2, Blocks<Avx2, block_rows, kRows, index>, vectors>;    \
    spmm_blocks<block_rows, ValueType::value>(floats, widen<Avx2>, args, group_begin, group_end); \
  }
#define GS_SPMM_KERNEL(isa, symbol, banks, vectors, lanes, index, value)                                              \
  void symbol(const SpmmArgs& args, int64_t row_begin, int64_t row_end) {                                             \
    constexpr SpmmKernel floats = spmm<Avx2, GatherGroups<Avx2, banks, index>, vectors>;                              \
    spmm_values<ValueType::value>(floats, widen<Avx2>, banks, banks / args.weight.per_row, args, row_begin, row_end); \
  }
#include "../kernels.inc"

}  // namespace nested_sparse
