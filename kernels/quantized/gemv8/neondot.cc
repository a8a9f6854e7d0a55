// NEON with dot products of bytes (Armv8.2, asimddp).
#include "neon.h"

namespace nested_sparse {
namespace {

struct Bytes4 : SignedBytes4 {
  static Vec dot(Vec sums, const int8_t* val, Input x) {
    return vdotq_s32(sums, vld1q_s8(val), vreinterpretq_s8_u32(vdupq_n_u32(x)));
  }
};

template <int V>
using BytesOf = VectorOf<V, Bytes4, Twice<Bytes4>, FourTimes<Bytes4>>;

}  // namespace

#define NESTED_SPARSE_LIST_NEONDOT
#include "define_kernels.inc"

}  // namespace nested_sparse
