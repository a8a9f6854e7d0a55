// Vectors of four rows for NEON. Everything is in an unnamed namespace for the reason given in rows.h.
#pragma once

#include <arm_neon.h>

#include "inputs.h"
#include "rows.h"

namespace nested_sparse {
namespace {

// NEON multiplies signed bytes only, so 128 is subtracted from every byte of x.
struct SignedBytes4 {
  using Sum = uint32_t;
  using Vec = int32x4_t;
  using Input = uint32_t;
  static constexpr int kLanes = 4;
  static constexpr int kStreams = 1;  // more were not measured
  static constexpr int32_t kBias = 128;
  static Vec zero() { return vdupq_n_s32(0); }
  static Input input(const uint8_t* x, const uint16_t* col) { return bytes_at(x, col) ^ 0x80808080U; }
  static void store(Sum* to, Vec sums) { vst1q_u32(to, vreinterpretq_u32_s32(sums)); }
};

template <class W>
using FourTimes = Twice<Twice<W>>;

}  // namespace
}  // namespace nested_sparse
