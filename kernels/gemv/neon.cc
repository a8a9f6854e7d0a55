// NEON (aarch64).
#include <arm_neon.h>

#include "rows.h"

namespace nested_sparse {
namespace {

// V rows, four to a register.
template <int V>
struct Rows {
  static constexpr int kRows = V;
  static constexpr int kParts = V / 4;
  struct Vec {
    float32x4_t part[kParts];
  };

  static Vec zero() { return Vec{}; }
  static Vec load(const float* p) {
    Vec v;
    for (int i = 0; i < kParts; ++i) v.part[i] = vld1q_f32(p + 4 * i);
    return v;
  }
  static Vec fma(Vec a, const float* b, Vec c) {
    const float in = *b;
    for (int i = 0; i < kParts; ++i) c.part[i] = vfmaq_n_f32(c.part[i], a.part[i], in);
    return c;
  }
  static Vec add(Vec a, Vec b) {
    for (int i = 0; i < kParts; ++i) a.part[i] = vaddq_f32(a.part[i], b.part[i]);
    return a;
  }
  static void store(float* p, Vec v) {
    for (int i = 0; i < kParts; ++i) vst1q_f32(p + 4 * i, v.part[i]);
  }
};

struct Gather {
  using Vec = float32x4_t;
  static constexpr int kLanes = 4;
  static Vec zero() { return vdupq_n_f32(0.0F); }
  static Vec load(const float* p) { return vld1q_f32(p); }
  static Vec fma(Vec a, Vec b, Vec c) { return vfmaq_f32(c, a, b); }
  static Vec add(Vec a, Vec b) { return vaddq_f32(a, b); }
  static void store(float* p, Vec v) { vst1q_f32(p, v); }

  template <int V, class Index>
  static Vec gather(const float* x, const Index* col) {
    if constexpr (V == 1) return Vec{x[col[0]], x[col[1]], x[col[2]], x[col[3]]};
    return vcombine_f32(vld1_dup_f32(x + col[0]), vld1_dup_f32(x + col[1]));
  }
};

template <int V, class Index>
void gemv(const GemvArgs& args, int64_t group_begin, int64_t group_end) {
  if constexpr (V >= 4) gemv_broadcast<Rows<V>, Index>(args, group_begin, group_end);
  if constexpr (V <= 2) gemv_gather<Gather, V, Index>(args, group_begin, group_end);
}

}  // namespace

#define NESTED_SPARSE_LIST_NEON
#define GEMV_KERNEL(isa, symbol, block_rows, index)                           \
  void symbol(const GemvArgs& args, int64_t group_begin, int64_t group_end) { \
    gemv<block_rows, index>(args, group_begin, group_end);                    \
  }
#include "../kernels.inc"

}  // namespace nested_sparse
