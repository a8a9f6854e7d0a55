// NEON (aarch64) without dot products of bytes.
#include "neon.h"

namespace nested_sparse {
namespace {

struct Bytes4 : SignedBytes4 {
  static Vec dot(Vec sums, const int8_t* val, Input x) {
    const int8x16_t weights = vld1q_s8(val);
    const int8x16_t inputs = vreinterpretq_s8_u32(vdupq_n_u32(x));
    const int16x8_t low = vmull_s8(vget_low_s8(weights), vget_low_s8(inputs));
    const int16x8_t high = vmull_high_s8(weights, inputs);
    return vpadalq_s16(sums, vpaddq_s16(low, high));  // 2 * 127 * 128 fits into 16 bits
  }
};

struct Floats4 {
  using Sum = float;
  using Vec = float32x4_t;
  using Input = Floats;
  static constexpr int kLanes = 4;
  static constexpr int kStreams = 1;
  static constexpr int32_t kBias = 0;
  static Vec zero() { return vdupq_n_f32(0); }
  static Input input(const float* x, const uint16_t* col) { return floats_at(x, col); }
  static Vec dot(Vec sums, const int8_t* val, Input x) {
    const int32x4_t weights = vreinterpretq_s32_s8(vld1q_s8(val));
    sums = add_column(sums, vshlq_n_s32(weights, 24), x.at(0));
    sums = add_column(sums, vshlq_n_s32(weights, 16), x.at(1));
    sums = add_column(sums, vshlq_n_s32(weights, 8), x.at(2));
    return add_column(sums, weights, x.at(3));
  }
  static Vec add_column(Vec sums, int32x4_t top, const float* x) {
    return vfmaq_n_f32(sums, vcvtq_f32_s32(vshrq_n_s32(top, 24)), *x);
  }
  static void store(Sum* to, Vec sums) { vst1q_f32(to, sums); }
};

template <int V>
using BytesOf = VectorOf<V, Bytes4, Twice<Bytes4>, FourTimes<Bytes4>>;
template <int V>
using FloatsOf = VectorOf<V, Floats4, Twice<Floats4>, FourTimes<Floats4>>;

}  // namespace

#define NESTED_SPARSE_LIST_NEON
#include "define_kernels.inc"

}  // namespace nested_sparse
