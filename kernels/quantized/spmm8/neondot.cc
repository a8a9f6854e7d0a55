// NEON with dot products of bytes (Armv8.2, asimddp).
#include "neon.h"

namespace nested_sparse {
namespace {

struct SignedDot {
  struct Quad {
    int8x16_t of[4];  // each 32-bit element holds one pixel's bytes of the four columns
  };

  NESTED_SPARSE_INLINE static Quad quad(int8x16_t a, int8x16_t b, int8x16_t c, int8x16_t d) {
    const int16x8_t ab_low = vreinterpretq_s16_s8(vzip1q_s8(a, b));
    const int16x8_t ab_high = vreinterpretq_s16_s8(vzip2q_s8(a, b));
    const int16x8_t cd_low = vreinterpretq_s16_s8(vzip1q_s8(c, d));
    const int16x8_t cd_high = vreinterpretq_s16_s8(vzip2q_s8(c, d));
    return {{vreinterpretq_s8_s16(vzip1q_s16(ab_low, cd_low)), vreinterpretq_s8_s16(vzip2q_s16(ab_low, cd_low)),
             vreinterpretq_s8_s16(vzip1q_s16(ab_high, cd_high)), vreinterpretq_s8_s16(vzip2q_s16(ab_high, cd_high))}};
  }
  template <int R>
  NESTED_SPARSE_INLINE static void multiply(int32x4_t (&sums)[4], const Quad& quad, int8x16_t weights) {
    NESTED_SPARSE_UNROLL
    for (int i = 0; i < 4; ++i) sums[i] = vdotq_laneq_s32(sums[i], quad.of[i], weights, R);
  }
  NESTED_SPARSE_INLINE static int32x4_t weight_sums(int8x16_t weights) {
    return vdotq_s32(vdupq_n_s32(0), weights, vdupq_n_s8(1));
  }
};

template <int V, class Args>
void run(const Args& args, int64_t group_begin, int64_t group_end) {
  run_tile<Neon<SignedDot>, V>(args, group_begin, group_end);
}

}  // namespace

#define NESTED_SPARSE_LIST_NEONDOT
#define SPMM8_KERNEL(isa, dot, symbol, sums_symbol, block_rows) NESTED_SPARSE_SPMM8(symbol, sums_symbol, block_rows)
#include "../kernels.inc"

}  // namespace nested_sparse
