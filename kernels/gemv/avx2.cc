// AVX2 and FMA.
#include <immintrin.h>

#include "gather_groups.h"

namespace nested_sparse {
namespace {

struct Rows8 {
  using Vec = __m256;
  static constexpr int kRows = 8;
  static constexpr int kTogether = 4;
  static constexpr int kStreams = 4;
  static Vec zero() { return _mm256_setzero_ps(); }
  static Vec load(const float* p) { return _mm256_loadu_ps(p); }
  static Vec load(const uint16_t* p) { return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); }
  static Vec fma(Vec a, const float* b, Vec c) { return _mm256_fmadd_ps(a, _mm256_broadcast_ss(b), c); }
  static Vec add(Vec a, Vec b) { return _mm256_add_ps(a, b); }
  static void store(float* p, Vec v) { _mm256_storeu_ps(p, v); }
};

struct Rows16 {
  struct Vec {
    __m256 low, high;
  };
  static constexpr int kRows = 16;
  static constexpr int kTogether = 2;
  static constexpr int kStreams = 4;
  static Vec zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
  static Vec load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
  static Vec load(const uint16_t* p) { return {Rows8::load(p), Rows8::load(p + 8)}; }
  static Vec fma(Vec a, const float* b, Vec c) {
    const __m256 in = _mm256_broadcast_ss(b);
    return {_mm256_fmadd_ps(a.low, in, c.low), _mm256_fmadd_ps(a.high, in, c.high)};
  }
  static Vec add(Vec a, Vec b) { return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)}; }
  static void store(float* p, Vec v) {
    _mm256_storeu_ps(p, v.low);
    _mm256_storeu_ps(p + 8, v.high);
  }
};

struct Rows4 {
  using Vec = __m128;
  static constexpr int kRows = 4;
  static constexpr int kTogether = 4;
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
  if constexpr (V <= 2) gemv_diagonal<Rows8, V, Index, Value>(args, group_begin, group_end);
}

}  // namespace

#define NESTED_SPARSE_LIST_AVX2
#define GEMV_KERNEL(isa, symbol, block_rows, index, value)                           \
  void symbol(const GemvArgs& args, int64_t group_begin, int64_t group_end) {        \
    gemv<block_rows, index, Stored<ValueType::value>>(args, group_begin, group_end); \
  }
#define GS_GEMV_KERNEL(isa, symbol, banks, index, value)                                    \
  void symbol(const GemvArgs& args, int64_t bundle_begin, int64_t bundle_end) {             \
    gemv_gs<Rows8, banks, index, Stored<ValueType::value>>(args, bundle_begin, bundle_end); \
  }
#include "../kernels.inc"

}  // namespace nested_sparse
