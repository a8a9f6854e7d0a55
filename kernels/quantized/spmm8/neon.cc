// NEON without dot products of bytes: products of 16 bits, which are exact for two columns, are added up for all four.
// A multiply-add that widens to 32 bits at once would do four products; three of these instructions do 16.
#include "neon.h"

namespace nested_sparse {
namespace {

struct Products {
  struct Quad {
    int8x16_t of[4];  // pairs of columns a and b: pixels 0 to 7, 8 to 15; the same of c and d
  };

  NESTED_SPARSE_INLINE static Quad quad(int8x16_t a, int8x16_t b, int8x16_t c, int8x16_t d) {
    return {{vzip1q_s8(a, b), vzip2q_s8(a, b), vzip1q_s8(c, d), vzip2q_s8(c, d)}};
  }
  // a * weight + c * weight is at most 2 * 128 * 127, which fits.
  NESTED_SPARSE_INLINE static void add(int32x4_t& first, int32x4_t& second, int8x16_t ab, int8x16_t cd, int8x16_t by_ab,
                                       int8x16_t by_cd) {
    const int16x8_t low = vmull_s8(vget_low_s8(ab), vget_low_s8(by_ab));
    first = vpadalq_s16(first, vmlal_s8(low, vget_low_s8(cd), vget_low_s8(by_cd)));
    second = vpadalq_s16(second, vmlal_high_s8(vmull_high_s8(ab, by_ab), cd, by_cd));
  }
  template <int R>
  NESTED_SPARSE_INLINE static void multiply(int32x4_t (&sums)[4], const Quad& quad, int8x16_t weights) {
    const int16x8_t pairs = vreinterpretq_s16_s8(weights);
    const int8x16_t ab = vreinterpretq_s8_s16(vdupq_laneq_s16(pairs, 2 * R));
    const int8x16_t cd = vreinterpretq_s8_s16(vdupq_laneq_s16(pairs, 2 * R + 1));
    add(sums[0], sums[1], quad.of[0], quad.of[2], ab, cd);
    add(sums[2], sums[3], quad.of[1], quad.of[3], ab, cd);
  }
  NESTED_SPARSE_INLINE static int32x4_t weight_sums(int8x16_t weights) { return vpaddlq_s16(vpaddlq_s8(weights)); }
};

template <int V, class Args>
void run(const Args& args, int64_t group_begin, int64_t group_end) {
  run_tile<Neon<Products>, V>(args, group_begin, group_end);
}

}  // namespace

#define NESTED_SPARSE_LIST_NEON
#define SPMM8_KERNEL(isa, dot, symbol, sums_symbol, block_rows) NESTED_SPARSE_SPMM8(symbol, sums_symbol, block_rows)
#include "../kernels.inc"

}  // namespace nested_sparse
