// The loops of activation.h, written once. The file of each instruction set includes it and is compiled with its flags,
// and with -fno-trapping-math, without which gcc does not vectorise comparisons of floats.
// Everything is in an unnamed namespace: the linker must never let callers of one instruction set use code compiled for
// another.
#pragma once

#include <algorithm>
#include <cstring>

#include "../exponential.h"
#include "activation.h"

namespace nested_sparse {
namespace {

// x s(z)
inline float gated(float x, float z) {
  return x / (1.0F + exponential(-z));
}

// x P(x) = max(x, 0) - |x| P(-|x|), and P(-t) = exp(-Q(t)) / 2. Q was fitted to within 8e-9 of P on 0 to 6; from there
// on it is too large, and P(-t) too small by less than 1e-9. At kEnd Q is 88, and exp(-88) is 0 here. The smaller of
// |x| and kEnd is that of their bits, which takes one instruction, and NaN goes the other way, through max(x, 0).
inline float gelu(float x) {
  constexpr float kEnd = 9.971F;
  int32_t bits;
  int32_t end;
  std::memcpy(&bits, &x, sizeof bits);
  std::memcpy(&end, &kEnd, sizeof end);
  bits = std::min(bits & 0x7fffffff, end);
  float t;
  std::memcpy(&t, &bits, sizeof t);
  float q = 1.9649136e-6F;
  q = q * t - 2.7293432e-5F;
  q = q * t + 1.2904544e-4F;
  q = q * t + 9.4927874e-5F;
  q = q * t - 4.8960025e-3F;
  q = q * t + 3.6387586e-2F;
  q = q * t + 3.1829886e-1F;
  q = q * t + 7.9788533e-1F;
  const float above = x < 0.0F ? 0.0F : x;
  return above - (0.5F * t) * bounded_exponential<float, uint32_t>(-(q * t));
}

inline float hard_sigmoid(float x) {
  const float line = x * (1.0F / 6.0F) + 0.5F;
  const float raised = line < 0.0F ? 0.0F : line;
  return raised > 1.0F ? 1.0F : raised;
}

// A rest of less than kTogether values is computed in a vector of its own: value by value, it took as long as several.
template <class Function>
void each(int64_t count, float* __restrict y, const Function& function) {
  constexpr int64_t kTogether = 16;
  const int64_t together = count / kTogether * kTogether;
  for (int64_t i = 0; i < together; ++i) y[i] = function(y[i]);
  if (together == count) return;
  float rest[kTogether] = {};
  std::copy(y + together, y + count, rest);
  for (float& value : rest) value = function(value);
  std::copy(rest, rest + (count - together), y + together);
}

inline void scale_values(int64_t count, const float* x, float scale, float shift, Clip bounds, float* y) {
  const auto function = [=](float value) { return clip(value * scale + shift, bounds); };
  if (x == y) return each(count, y, function);
  const float* __restrict from = x;
  float* __restrict to = y;
  for (int64_t i = 0; i < count; ++i) to[i] = function(from[i]);
}

inline void activate(Activation activation, int64_t count, float* y) {
  switch (activation) {
    case Activation::none:
      return;
    case Activation::sigmoid:
      return each(count, y, [](float x) { return gated(1.0F, x); });
    case Activation::silu:
      return each(count, y, [](float x) { return gated(x, x); });
    case Activation::quick_gelu:
      return each(count, y, [](float x) { return gated(x, 1.702F * x); });
    case Activation::gelu:
      return each(count, y, [](float x) { return gelu(x); });
    case Activation::gelu_tanh:
      return each(count, y, [](float x) { return gated(x, x * (1.59576912F + 0.0713548163F * (x * x))); });
    case Activation::hard_sigmoid:
      return each(count, y, [](float x) { return hard_sigmoid(x); });
    case Activation::hard_swish:
      return each(count, y, [](float x) { return x * hard_sigmoid(x); });
  }
}

}  // namespace
}  // namespace nested_sparse
