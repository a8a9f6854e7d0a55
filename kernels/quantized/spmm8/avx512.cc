// AVX-512 (F, DQ, BW, VL) without VNNI: pairs of pixels, widened to 16 bits, times pairs of weights. vpmaddubsw would
// multiply bytes, but its sums of two products saturate.
#include "widened.h"

namespace nested_sparse {
namespace {

template <class V>
struct Pairs {
  using Vec = typename V::Vec;
  struct Quad {
    Vec of[8];  // of columns a and b, then of c and d
  };
  template <int R>
  using Weights = Widened<R>;

  NESTED_SPARSE_INLINE static Quad quad(Vec a, Vec b, Vec c, Vec d) {
    const Vec zero = V::bytes(0);
    const Vec ab_low = low_bytes(a, b);
    const Vec ab_high = high_bytes(a, b);
    const Vec cd_low = low_bytes(c, d);
    const Vec cd_high = high_bytes(c, d);
    return {{low_bytes(ab_low, zero), high_bytes(ab_low, zero), low_bytes(ab_high, zero), high_bytes(ab_high, zero),
             low_bytes(cd_low, zero), high_bytes(cd_low, zero), low_bytes(cd_high, zero), high_bytes(cd_high, zero)}};
  }
  template <class W>
  NESTED_SPARSE_INLINE static void multiply(Vec (&sums)[4], const Quad& quad, const W& weights, int r) {
    const Vec ab = weights.template ab<V>(r);
    const Vec cd = weights.template cd<V>(r);
    NESTED_SPARSE_UNROLL
    for (int i = 0; i < 4; ++i) {
      sums[i] = add_sums(sums[i], multiply_pairs(quad.of[i], ab));
      sums[i] = add_sums(sums[i], multiply_pairs(quad.of[4 + i], cd));
    }
  }
};

template <int V, class Args>
void run(const Args& args, int64_t group_begin, int64_t group_end) {
  if (args.pixels == 64) return run_tile<InLanes<Zmm, Pairs<Zmm>, 4>, V>(args, group_begin, group_end);
  if (args.pixels == 32) return run_tile<InLanes<Ymm, Pairs<Ymm>, 4>, V>(args, group_begin, group_end);
  return run_tile<InLanes<Xmm, Pairs<Xmm>, 4>, V>(args, group_begin, group_end);
}

}  // namespace

#define NESTED_SPARSE_LIST_AVX512
#define SPMM8_KERNEL(isa, dot, symbol, sums_symbol, block_rows) NESTED_SPARSE_SPMM8(symbol, sums_symbol, block_rows)
#include "../kernels.inc"

}  // namespace nested_sparse
