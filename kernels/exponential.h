// exponential: e^x of a float, or of a vector of the compiler. In an unnamed namespace, as all that is compiled for
// each instruction set: the linker must never let callers of one use code compiled for another.
#pragma once

#include <cstdint>
#include <cstring>

namespace nested_sparse {
namespace {

// The bounds of the x that bounded_exponential takes.
constexpr float kLeastExponent = -88.0F;
constexpr float kMostExponent = 89.0F;

// e^x within 2 units in the last place; 0 below -87.7 and infinite above 88.4. The coefficients are those of Cephes'
// expf. Adding 1.5 * 2^23 rounds to an integer, and leaves it in the low bits. Bits: as many uint32_t as Value has
// floats.
template <class Value, class Bits>
inline Value bounded_exponential(Value x) {
  constexpr float kRound = 12582912.0F;
  constexpr uint32_t kRoundBits = 0x4b400000;
  const Value steps = x * 1.44269504F + kRound;
  const Value whole = steps - kRound;
  const Value rest = x - whole * 0.693359375F - whole * -2.12194440e-4F;
  Value sum = rest * 1.9875691500e-4F + 1.3981999507e-3F;
  sum = sum * rest + 8.3334519073e-3F;
  sum = sum * rest + 4.1665795894e-2F;
  sum = sum * rest + 1.6666665459e-1F;
  sum = sum * rest + 5.0000001201e-1F;
  sum = sum * (rest * rest) + rest + 1.0F;
  Bits bits;
  std::memcpy(&bits, &steps, sizeof bits);
  // 2^-127 is 0 here and 2^128 is infinite, as the bits of an exponent have it.
  bits = (bits - kRoundBits + 127U) << 23U;
  Value power;
  std::memcpy(&power, &bits, sizeof power);
  return sum * power;
}

inline float exponential(float x) {
  const float raised = x < kLeastExponent ? kLeastExponent : x;
  return bounded_exponential<float, uint32_t>(raised > kMostExponent ? kMostExponent : raised);
}

}  // namespace
}  // namespace nested_sparse
