// NEON (aarch64).
#include <arm_neon.h>

#include "gather_groups.h"

namespace nested_sparse {
namespace {

// V rows, four to a register.
template <int V>
struct Rows {
  static constexpr int kRows = V;
  static constexpr int kStreams = 1;  // more were not measured; with four at V = 16, sums would fill all 32 registers
  static constexpr int kParts = V / 4;
  static constexpr int kTogether = 8 / kParts;  // two sums of each fill half of the registers
  struct Vec {
    float32x4_t part[kParts];
  };

  static Vec zero() { return Vec{}; }
  static Vec load(const float* p) {
    Vec v;
    for (int i = 0; i < kParts; ++i) v.part[i] = vld1q_f32(p + 4 * i);
    return v;
  }
  static Vec load(const uint16_t* p) {
    Vec v;
    for (int i = 0; i < kParts; ++i) v.part[i] = vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p + 4 * i)));
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

template <int V, class Index, class Value>
void gemv(const GemvArgs& args, int64_t group_begin, int64_t group_end) {
  if constexpr (V >= 4) gemv_broadcast<Rows<V>, Index, Value>(args, group_begin, group_end);
  if constexpr (V <= 2) gemv_diagonal<Rows<4>, V, Index, Value>(args, group_begin, group_end);
}

}  // namespace

#define NESTED_SPARSE_LIST_NEON
#define GEMV_KERNEL(isa, symbol, block_rows, index, value)                           \
  void symbol(const GemvArgs& args, int64_t group_begin, int64_t group_end) {        \
    gemv<block_rows, index, Stored<ValueType::value>>(args, group_begin, group_end); \
  }
#define GS_GEMV_KERNEL(isa, symbol, banks, index, value)                                      \
  void symbol(const GemvArgs& args, int64_t bundle_begin, int64_t bundle_end) {               \
    gemv_gs<Rows<4>, banks, index, Stored<ValueType::value>>(args, bundle_begin, bundle_end); \
  }
#include "../kernels.inc"

}  // namespace nested_sparse
