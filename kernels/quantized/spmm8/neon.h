// The vector type of tile.h for NEON (aarch64): 16 pixels, whose sums of four rows are in 16 of the 32 registers. NEON
// multiplies signed bytes only. So 128 is subtracted from every pixel, and the sums start with 128 times the sum of
// their row's weights.
#pragma once

#include <arm_neon.h>

#include <cstring>

#include "tile.h"

namespace nested_sparse {
namespace {

// The weights of R rows; those of other rows in the register are copies, or zero.
template <int R>
NESTED_SPARSE_INLINE int8x16_t load_weights(const int8_t* val) {
  if constexpr (R == 4) return vld1q_s8(val);
  if constexpr (R == 2) return vcombine_s8(vld1_s8(val), vdup_n_s8(0));
  int32_t of_row;
  std::memcpy(&of_row, val, sizeof of_row);
  return vreinterpretq_s8_s32(vsetq_lane_s32(of_row, vdupq_n_s32(0), 0));
}

// Dot: Quad, quad(a, b, c, d) from signed pixels, multiply<R>(sums, quad, weights) of row R, and weight_sums(sums,
// weights), which adds up the weights of each row.
template <class Dot>
struct Neon {
  static constexpr int kPixels = 16;
  static constexpr int kRows = 4;
  static constexpr int kSubtracted = 128;
  struct Sums {
    int32x4_t of[4];
  };
  struct Words {
    int16x8_t low, high;
  };
  struct Limits {
    uint8x16_t lo, hi;
    uint16x8_t residual_multiplier;
  };

  NESTED_SPARSE_INLINE static Sums start(int32_t bias) {
    const int32x4_t each = vdupq_n_s32(bias);
    return {{each, each, each, each}};
  }
  NESTED_SPARSE_INLINE static int8x16_t signed_pixels(const uint8_t* p) {
    return vreinterpretq_s8_u8(veorq_u8(vld1q_u8(p), vdupq_n_u8(kSubtracted)));
  }
  NESTED_SPARSE_INLINE static auto quad(const uint8_t* a, const uint8_t* b, const uint8_t* c, const uint8_t* d) {
    return Dot::quad(signed_pixels(a), signed_pixels(b), signed_pixels(c), signed_pixels(d));
  }
  template <int R>
  NESTED_SPARSE_INLINE static int8x16_t weights(const int8_t* val) {
    return load_weights<R>(val);
  }
  template <class Quad>
  NESTED_SPARSE_INLINE static void multiply(Sums& sums, const Quad& quad, int8x16_t weights, int r) {
    if (r == 0) Dot::template multiply<0>(sums.of, quad, weights);
    if (r == 1) Dot::template multiply<1>(sums.of, quad, weights);
    if (r == 2) Dot::template multiply<2>(sums.of, quad, weights);
    if (r == 3) Dot::template multiply<3>(sums.of, quad, weights);
  }
  template <int R>
  NESTED_SPARSE_INLINE static void add_weights(int32_t (&sums)[R], const int8_t* val) {
    int32_t each[4];
    vst1q_s32(each, Dot::weight_sums(load_weights<R>(val)));
    for (int r = 0; r < R; ++r) sums[r] += each[r];
  }
  NESTED_SPARSE_INLINE static void store_sums(int32_t* to, const Sums& sums) {
    NESTED_SPARSE_UNROLL
    for (int i = 0; i < 4; ++i) vst1q_s32(to + 4 * i, sums.of[i]);
  }

  static Limits limits(uint8_t lo, uint8_t hi, int32_t residual_multiplier) {
    return {vdupq_n_u8(lo), vdupq_n_u8(hi), vdupq_n_u16(static_cast<uint16_t>(residual_multiplier))};
  }
  NESTED_SPARSE_INLINE static Words words(const Sums& sums, const int32_t* shift) {
    const int32x4_t by = vdupq_n_s32(-*shift);  // to the left, so a negative count shifts right
    return {vcombine_s16(vqmovn_s32(vshlq_s32(sums.of[0], by)), vqmovn_s32(vshlq_s32(sums.of[1], by))),
            vcombine_s16(vqmovn_s32(vshlq_s32(sums.of[2], by)), vqmovn_s32(vshlq_s32(sums.of[3], by)))};
  }
  NESTED_SPARSE_INLINE static Words scaled(Words words, int16_t multiplier) {
    return {vqrdmulhq_n_s16(words.low, multiplier), vqrdmulhq_n_s16(words.high, multiplier)};
  }
  // (residual * R) >> 8
  NESTED_SPARSE_INLINE static int16x8_t share(uint8x8_t residual, uint16x8_t multiplier) {
    const uint16x8_t wide = vmovl_u8(residual);
    const uint32x4_t low = vmull_u16(vget_low_u16(wide), vget_low_u16(multiplier));
    const uint32x4_t high = vmull_high_u16(wide, multiplier);
    return vreinterpretq_s16_u16(vcombine_u16(vshrn_n_u32(low, 8), vshrn_n_u32(high, 8)));
  }
  NESTED_SPARSE_INLINE static Words added(Words words, const uint8_t* residual, const Limits& limits) {
    const uint8x16_t bytes = vld1q_u8(residual);
    return {vqaddq_s16(words.low, share(vget_low_u8(bytes), limits.residual_multiplier)),
            vqaddq_s16(words.high, share(vget_high_u8(bytes), limits.residual_multiplier))};
  }
  NESTED_SPARSE_INLINE static uint8x16_t bytes(Words words, const Limits& limits) {
    const uint8x16_t bytes = vcombine_u8(vqrshrun_n_s16(words.low, 3), vqrshrun_n_s16(words.high, 3));
    return vminq_u8(vmaxq_u8(bytes, limits.lo), limits.hi);
  }
  NESTED_SPARSE_INLINE static uint8x16_t looked_up(uint8x16_t bytes, const uint8_t* table, const Limits&) {
    uint8_t each[16];
    vst1q_u8(each, bytes);
    for (uint8_t& byte : each) byte = table[byte];
    return vld1q_u8(each);
  }
  NESTED_SPARSE_INLINE static uint8x16_t selected(uint64_t keep, uint8x16_t bytes, uint8_t pad) {
    const uint8x8_t bit = vcreate_u8(0x8040201008040201);
    const uint8x8_t low = vtst_u8(vdup_n_u8(static_cast<uint8_t>(keep)), bit);
    const uint8x8_t high = vtst_u8(vdup_n_u8(static_cast<uint8_t>(keep >> 8)), bit);
    return vbslq_u8(vcombine_u8(low, high), bytes, vdupq_n_u8(pad));
  }
  NESTED_SPARSE_INLINE static void store(uint8_t* to, uint8x16_t bytes) { vst1q_u8(to, bytes); }
};

}  // namespace
}  // namespace nested_sparse
