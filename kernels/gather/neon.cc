// NEON. It has no masked loads: a piece with all its lanes is loaded at once, any other one lane by lane.
#include <arm_neon.h>

#include "pieces.h"

namespace nested_sparse {
namespace {

struct Neon {
  using Vec = float32x4_t;
  static constexpr int kLanes = 4;
  template <int Step>
  static Vec load_piece(const float* p, uint32_t mask) {
    if (Step == 1 && mask == 15U) return vld1q_f32(p);
    float lanes[kLanes] = {};
    for (int i = 0; i < kLanes; ++i) {
      if ((mask >> (i * Step) & 1U) != 0) lanes[i] = p[i * Step];
    }
    return vld1q_f32(lanes);
  }
  static Vec load(const float* p) { return vld1q_f32(p); }
  static Vec merge(Vec a, Vec b) {
    return vreinterpretq_f32_u32(vorrq_u32(vreinterpretq_u32_f32(a), vreinterpretq_u32_f32(b)));
  }
  static Vec max(Vec a, Vec b) { return vmaxq_f32(a, b); }
  static void store(float* p, Vec v) { vst1q_f32(p, v); }
  static Vec splat(float value) { return vdupq_n_f32(value); }
  static Vec fma(Vec a, Vec b, Vec c) { return vfmaq_f32(c, a, b); }
};

}  // namespace

void gather_neon(const GatherArgs& args) {
  gather<Neon>(args);
}

void depthwise_neon(const DepthwiseArgs& args) {
  depthwise<Neon>(args);
}

void max_rows_neon(const float* rows, int64_t taps, int64_t count, float* y) {
  max_rows<Neon>(rows, taps, count, y);
}

}  // namespace nested_sparse
