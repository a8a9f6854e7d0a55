// The reference, one pixel per vector: a vector's only piece is its only lane.
#include "pieces.h"

namespace nested_sparse {
namespace {

struct Scalar {
  using Vec = float;
  static constexpr int kLanes = 1;
  template <int Step>
  static Vec load_piece(const float* p, uint32_t mask) {
    return (mask & 1U) != 0 ? *p : 0.0F;
  }
  static Vec load(const float* p) { return *p; }
  static Vec merge(Vec a, Vec b) { return a + b; }
  static void store(float* p, Vec v) { *p = v; }
};

}  // namespace

void gather_scalar(const GatherArgs& args) {
  gather<Scalar>(args);
}

}  // namespace nested_sparse
