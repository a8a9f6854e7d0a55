// The reference: a vector is one pixel, and so has one piece of one lane.
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
  static Vec max(Vec a, Vec b) { return a > b || a != a ? a : b; }
  static void store(float* p, Vec v) { *p = v; }
  static Vec splat(float value) { return value; }
  static Vec fma(Vec a, Vec b, Vec c) { return a * b + c; }
};

}  // namespace

void gather_scalar(const GatherArgs& args) {
  gather<Scalar>(args);
}

void depthwise_scalar(const DepthwiseArgs& args) {
  depthwise<Scalar>(args);
}

void max_rows_scalar(const float* rows, int64_t taps, int64_t count, float* y) {
  max_rows<Scalar>(rows, taps, count, y);
}

}  // namespace nested_sparse
