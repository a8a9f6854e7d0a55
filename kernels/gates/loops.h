// The loops of gates.h, written once; the compiler makes vectors of them. The file of each instruction set includes it
// and is compiled with its flags, and with -fno-trapping-math, without which gcc does not vectorise comparisons of
// floats. Everything is in an unnamed namespace: the linker must never let callers of one instruction set use code
// compiled for another.
#pragma once

#include "gates.h"

namespace nested_sparse {
namespace {

// A quotient. Divisions bound these loops, so numerators and denominators are multiplied first, and divided once.
struct Quotient {
  float over;
  float under;
};

// tanh(x): an odd polynomial over an even one (Eigen's, from generic_fast_tanh_float). Beyond the bounds tanh rounds to
// 1 or -1, and so does the quotient at the bounds. The denominator lies between 0.004 and 1.
inline Quotient tanh_of(float x) {
  constexpr float kBound = 7.90531110763549805F;
  x = x < -kBound ? -kBound : x;  // a NaN stays one
  x = x > kBound ? kBound : x;
  const float square = x * x;
  float over = -2.76076847742355e-16F;
  over = over * square + 2.00018790482477e-13F;
  over = over * square + -8.60467152213735e-11F;
  over = over * square + 5.12229709037114e-08F;
  over = over * square + 1.48572235717979e-05F;
  over = over * square + 6.37261928875436e-04F;
  over = over * square + 4.89352455891786e-03F;
  float under = 1.19825839466702e-06F;
  under = under * square + 1.18534705686654e-04F;
  under = under * square + 2.26843463243900e-03F;
  under = under * square + 4.89352518554385e-03F;
  return Quotient{x * over, under};
}

// sigmoid(x) = (1 + tanh(x / 2)) / 2
inline Quotient sigmoid_of(float x) {
  const Quotient half = tanh_of(0.5F * x);
  return Quotient{half.under + half.over, 2.0F * half.under};
}

void lstm(const GateArgs& args) {
  const float* const sums = args.sums;
  const int64_t stride = args.stride;
  float* const cell = args.cell;
  float* const hidden = args.hidden;
#pragma GCC ivdep
  for (int64_t i = 0; i < args.count; ++i) {
    const Quotient in = sigmoid_of(sums[i]);
    const Quotient forget = sigmoid_of(sums[stride + i]);
    const Quotient value = tanh_of(sums[2 * stride + i]);
    const float added = in.under * value.under;
    const float c = (forget.over * cell[i] * added + in.over * value.over * forget.under) / (forget.under * added);
    const Quotient out = sigmoid_of(sums[3 * stride + i]);
    const Quotient shown = tanh_of(c);
    cell[i] = c;
    hidden[i] = out.over * shown.over / (out.under * shown.under);
  }
}

void gru(const GateArgs& args) {
  const float* const sums = args.sums;
  const float* const x = args.x;
  const int64_t stride = args.stride;
  const float* const previous = args.previous;
  float* const hidden = args.hidden;
#pragma GCC ivdep
  for (int64_t i = 0; i < args.count; ++i) {
    const Quotient reset = sigmoid_of(x[i] + sums[i]);
    const Quotient keep = sigmoid_of(x[stride + i] + sums[stride + i]);
    const Quotient fresh = tanh_of(x[2 * stride + i] + reset.over / reset.under * sums[2 * stride + i]);
    const float kept = keep.over * previous[i] * fresh.under;
    hidden[i] = ((keep.under - keep.over) * fresh.over + kept) / (keep.under * fresh.under);
  }
}

}  // namespace
}  // namespace nested_sparse
