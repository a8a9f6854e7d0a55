// AVX-512 (F, DQ, BW, VL).
#include <immintrin.h>

#include "gather_groups.h"

namespace nested_sparse {
namespace {

struct Rows16 {
  using Vec = __m512;
  static constexpr int kRows = 16;
  static constexpr int kTogether = 8;
  static constexpr int kStreams = 4;
  static Vec zero() { return _mm512_setzero_ps(); }
  static Vec load(const float* p) { return _mm512_loadu_ps(p); }
  static Vec load(const uint16_t* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static Vec fma(Vec a, const float* b, Vec c) { return _mm512_fmadd_ps(a, _mm512_set1_ps(*b), c); }
  static Vec add(Vec a, Vec b) { return _mm512_add_ps(a, b); }
  static void store(float* p, Vec v) { _mm512_storeu_ps(p, v); }
};

struct Rows8 {
  using Vec = __m256;
  static constexpr int kRows = 8;
  static constexpr int kTogether = 8;
  static constexpr int kStreams = 4;
  static Vec zero() { return _mm256_setzero_ps(); }
  static Vec load(const float* p) { return _mm256_loadu_ps(p); }
  static Vec load(const uint16_t* p) { return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); }
  static Vec fma(Vec a, const float* b, Vec c) { return _mm256_fmadd_ps(a, _mm256_broadcast_ss(b), c); }
  static Vec add(Vec a, Vec b) { return _mm256_add_ps(a, b); }
  static void store(float* p, Vec v) { _mm256_storeu_ps(p, v); }
};

struct Rows4 {
  using Vec = __m128;
  static constexpr int kRows = 4;
  static constexpr int kTogether = 8;
  static constexpr int kStreams = 4;
  static Vec zero() { return _mm_setzero_ps(); }
  static Vec load(const float* p) { return _mm_loadu_ps(p); }
  static Vec load(const uint16_t* p) { return _mm_cvtph_ps(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))); }
  static Vec fma(Vec a, const float* b, Vec c) { return _mm_fmadd_ps(a, _mm_broadcast_ss(b), c); }
  static Vec add(Vec a, Vec b) { return _mm_add_ps(a, b); }
  static void store(float* p, Vec v) { _mm_storeu_ps(p, v); }
};

template <int V, class Index, class Value>
void gemv(const GemvArgs& args, int64_t group_begin, int64_t group_end) {
  if constexpr (V == 16) gemv_broadcast<Rows16, Index, Value>(args, group_begin, group_end);
  if constexpr (V == 8) gemv_broadcast<Rows8, Index, Value>(args, group_begin, group_end);
  if constexpr (V == 4) gemv_broadcast<Rows4, Index, Value>(args, group_begin, group_end);
  if constexpr (V <= 2) gemv_diagonal<Rows16, V, Index, Value>(args, group_begin, group_end);
}

}  // namespace

#define NESTED_SPARSE_LIST_AVX512
#define GEMV_KERNEL(isa, symbol, block_rows, index, value)                           \
  void symbol(const GemvArgs& args, int64_t group_begin, int64_t group_end) {        \
    gemv<block_rows, index, Stored<ValueType::value>>(args, group_begin, group_end); \
  }
#define GS_GEMV_KERNEL(isa, symbol, banks, index, value)                                     \
  void symbol(const GemvArgs& args, int64_t bundle_begin, int64_t bundle_end) {              \
    gemv_gs<Rows16, banks, index, Stored<ValueType::value>>(args, bundle_begin, bundle_end); \
  }
#include "../kernels.inc"

}  // namespace nested_sparse
