// widened: a stored value of a weight as a float. Values are stored as float, or as IEEE float16 (a "half") whose bits
// are held in a uint16_t. Every half is exactly a float. The functions are static, because each file compiles them for
// its own instruction set.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__F16C__)
#include <immintrin.h>
#endif

namespace nested_sparse {

static inline float widened(float value) {
  return value;
}

static inline float widened(uint16_t half) {
#if defined(__F16C__)
  return _cvtsh_ss(half);
#elif defined(__aarch64__)
  __fp16 value;
  std::memcpy(&value, &half, sizeof value);
  return value;
#else
  constexpr uint32_t kExponent = 0x7c00U << 13;
  uint32_t bits = (half & 0x7fffU) << 13;
  const uint32_t exponent = bits & kExponent;
  bits += (127U - 15U) << 23;
  if (exponent == kExponent) bits += (128U - 16U) << 23;  // infinity, NaN
  if (exponent == 0) bits += 1U << 23;                    // below 2^-14: the sum is 2^-14 too large
  float value;
  std::memcpy(&value, &bits, sizeof value);
  if (exponent == 0) value -= 1.0F / 16384.0F;
  return (half & 0x8000U) == 0 ? value : -value;
#endif
}

}  // namespace nested_sparse
