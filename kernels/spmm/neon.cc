// NEON (aarch64): a vector has 4 pixels, and the 32 registers hold sums of at most 4 rows by 6 vectors.
#include <arm_neon.h>

#include "gather_groups.h"
#include "tile.h"
#include "values.h"

namespace nested_sparse {
namespace {

struct Neon {
  using Vec = float32x4_t;
  struct Bounds {
    Vec lo, hi;
  };
  static constexpr int kLanes = 4;
  static constexpr bool kFetchEarly = false;  // not measured; it would be a quarter of the loop's instructions

  static Vec zero() { return vdupq_n_f32(0.0F); }
  static Vec load(const float* p) { return vld1q_f32(p); }
  static Vec load(const uint16_t* p) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p))); }
  static Vec load_first(const float* p, int n) {
    Vec v = zero();
    if (n > 0) v = vld1q_lane_f32(p, v, 0);
    if (n > 1) v = vld1q_lane_f32(p + 1, v, 1);
    if (n > 2) v = vld1q_lane_f32(p + 2, v, 2);
    return v;
  }
  // Loads lane 0 only, because fma reads no other. A copy to every lane would occupy a unit that multiplies and adds.
  static Vec broadcast(const float* p) {
    Vec v;
    __asm__("ldr %s0, %1" : "=w"(v) : "m"(*p));
    return v;
  }
  static Vec splat(float value) { return vdupq_n_f32(value); }
  // In assembly, because gcc compiles the intrinsic for this into a copy to every lane.
  static Vec fma(Vec a, Vec b, Vec c) {
    __asm__("fmla %0.4s, %1.4s, %2.s[0]" : "+w"(c) : "w"(b), "w"(a));
    return c;
  }
  static Vec add(Vec a, Vec b) { return vaddq_f32(a, b); }
  static Vec clip(Vec v, Bounds b) {
    return vminq_f32(b.hi, vmaxq_f32(b.lo, v));
  }  // min and max return NaN where either is
  static void store(float* p, Vec v) { vst1q_f32(p, v); }
  static void store_first(float* p, int n, Vec v) {
    if (n > 0) vst1q_lane_f32(p, v, 0);
    if (n > 1) vst1q_lane_f32(p + 1, v, 1);
    if (n > 2) vst1q_lane_f32(p + 2, v, 2);
  }
};

}  // namespace

#define NESTED_SPARSE_LIST_NEON
#define SPMM_KERNEL(isa, symbol, block_rows, vectors, lanes, index, value)                        \
  void symbol(const SpmmArgs& args, int64_t group_begin, int64_t group_end) {                     \
    static_assert(lanes == Neon::kLanes, "the list gives the pixels of a vector");                \
    constexpr int kRows = block_rows < 4 ? block_rows : 4;                                        \
    constexpr SpmmKernel floats = spmm<Neon, Blocks<Neon, block_rows, kRows, index>, vectors>;    \
    spmm_blocks<block_rows, ValueType::value>(floats, widen<Neon>, args, group_begin, group_end); \
  }
#define GS_SPMM_KERNEL(isa, symbol, banks, vectors, lanes, index, value)                                              \
  void symbol(const SpmmArgs& args, int64_t row_begin, int64_t row_end) {                                             \
    constexpr SpmmKernel floats = spmm<Neon, GatherGroups<Neon, banks, index>, vectors>;                              \
    spmm_values<ValueType::value>(floats, widen<Neon>, banks, banks / args.weight.per_row, args, row_begin, row_end); \
  }
#include "../kernels.inc"

}  // namespace nested_sparse
