// The loops of activation.h, written once. The file of each instruction set includes it and is compiled with its flags,
// and with -fno-trapping-math, without which gcc does not vectorise comparisons of floats.
// Everything is in an unnamed namespace: the linker must never let callers of one instruction set use code compiled for
// another.
#pragma once

#include <algorithm>
#include <cstring>

#include "activation.h"

namespace nested_sparse {
namespace {

// e^x within 2 units in the last place; 0 below -87.7 and infinite above 88.4. The coefficients are those of Cephes'
// expf. Adding 1.5 * 2^23 rounds to an integer, and leaves it in the low bits.
inline float exponential(float x) {
  constexpr float kRound = 12582912.0F;
  constexpr int32_t kRoundBits = 0x4b400000;
  const float raised = x < -88.0F ? -88.0F : x;
  const float bounded = raised > 89.0F ? 89.0F : raised;
  const float steps = bounded * 1.44269504F + kRound;
  const float whole = steps - kRound;
  const float rest = bounded - whole * 0.693359375F - whole * -2.12194440e-4F;
  float sum = 1.9875691500e-4F;
  sum = sum * rest + 1.3981999507e-3F;
  sum = sum * rest + 8.3334519073e-3F;
  sum = sum * rest + 4.1665795894e-2F;
  sum = sum * rest + 1.6666665459e-1F;
  sum = sum * rest + 5.0000001201e-1F;
  sum = sum * (rest * rest) + rest + 1.0F;
  int32_t bits = 0;
  std::memcpy(&bits, &steps, sizeof bits);
  // 2^-127 is 0 here and 2^128 is infinite, as the bits of an exponent have it.
  bits = static_cast<int32_t>(static_cast<uint32_t>(bits - kRoundBits + 127) << 23U);
  float power = 0;
  std::memcpy(&power, &bits, sizeof power);
  return sum * power;
}

// x s(z)
inline float gated(float x, float z) {
  return x / (1.0F + exponential(-z));
}

// x P(x) = max(x, 0) - |x| P(-|x|), and P(-t) = exp(-Q(t)) / 2. Q was fitted to within 8e-9 of P on 0 to 6; from there
// on it is too large, and P(-t) too small by less than 1e-9.
inline float gelu(float x) {
  const float size = x < 0.0F ? -x : x;
  const float t = size > 14.0F ? 14.0F : size;  // P(-14) is 0
  float q = 1.9649136e-6F;
  q = q * t - 2.7293432e-5F;
  q = q * t + 1.2904544e-4F;
  q = q * t + 9.4927874e-5F;
  q = q * t - 4.8960025e-3F;
  q = q * t + 3.6387586e-2F;
  q = q * t + 3.1829886e-1F;
  q = q * t + 7.9788533e-1F;
  const float above = x > 0.0F ? x : 0.0F;
  return above - t * (0.5F * exponential(-(q * t)));
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
