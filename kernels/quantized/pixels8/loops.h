// The loops of pixels8.h, written once. The file of each instruction set includes it and is compiled with its flags, and
// with -ffp-contract=off and -fno-trapping-math, without which gcc does not vectorise comparisons of floats. Everything
// is in an unnamed namespace: the linker must never let callers of one instruction set use code compiled for another.
#pragma once

#include <cstring>

#include "pixels8.h"

namespace nested_sparse {
namespace {

template <class T>
T between(T lo, T value, T hi) {
  const T raised = value < lo ? lo : value;
  return raised > hi ? hi : raised;
}

void quantise(const float* __restrict x, int64_t count, float scale, uint8_t zero, uint8_t* __restrict y) {
  // Adding 1.5 * 2^23 rounds to an integer, half to even, and leaves it in the low bits.
  constexpr float kRound = 12582912.0F;
  constexpr int32_t kRoundBits = 0x4b400000;
  for (int64_t i = 0; i < count; ++i) {
    const float steps = x[i] / scale;
    const float number = steps == steps ? steps : 0.0F;
    const float rounded = between(-512.0F, number, 512.0F) + kRound;
    int32_t bits = 0;
    std::memcpy(&bits, &rounded, sizeof bits);
    y[i] = static_cast<uint8_t>(between(0, bits - kRoundBits + zero, 255));
  }
}

void dequantise(const uint8_t* __restrict x, int64_t count, float scale, uint8_t zero, float* __restrict y) {
  for (int64_t i = 0; i < count; ++i) y[i] = scale * static_cast<float>(x[i] - zero);
}

// Calls loop(stride) with a stride that is a constant where that makes a faster loop.
template <class Loop>
void with_stride(int64_t stride, const Loop& loop) {
  if (stride == 1) {
    loop(std::integral_constant<int64_t, 1>());
  } else if (stride == 2) {
    loop(std::integral_constant<int64_t, 2>());
  } else {
    loop(stride);
  }
}

void raise(const Pixels<uint8_t>& pixels, uint8_t* __restrict y) {
  const uint8_t* __restrict const x = pixels.x;
  const int64_t count = pixels.count;
  with_stride(pixels.stride, [x, count, y](auto stride) {
    for (int64_t i = 0; i < count; ++i) y[i] = x[i * stride] > y[i] ? x[i * stride] : y[i];
  });
}

template <class T>
void add(const Pixels<T>& pixels, uint32_t* __restrict y) {
  const T* __restrict const x = pixels.x;
  const int64_t count = pixels.count;
  with_stride(pixels.stride, [x, count, y](auto stride) {
    for (int64_t i = 0; i < count; ++i) y[i] += x[i * stride];
  });
}

// Real: float where 2 sum + n < 2^24, so that a quotient cannot be rounded up to the next integer; double otherwise.
template <class Real>
void mean_as(const Mean& mean, int64_t count, uint8_t* __restrict y) {
  const uint32_t* __restrict const sums = mean.sums;
  const int32_t* __restrict const columns = mean.columns;
  const auto rows = static_cast<Real>(mean.rows);
  const auto taps = static_cast<Real>(mean.taps);
  const auto zero = static_cast<Real>(mean.zero);
  const bool counts_padding = mean.counts_padding;
  for (int64_t i = 0; i < count; ++i) {
    const Real seen = rows * static_cast<Real>(columns[i]);
    const Real padding = counts_padding ? taps - seen : Real{0};
    const Real n = seen + padding;
    const Real sum = static_cast<Real>(static_cast<int32_t>(sums[i])) + zero * padding;
    const Real quotient = (2 * sum + n) / (2 * (n > 0 ? n : Real{1}));
    y[i] = static_cast<uint8_t>(static_cast<int32_t>(n > 0 ? quotient : zero));
  }
}

void mean(const Mean& args, int64_t count, uint8_t* y) {
  if (args.taps <= 1 << 15) {
    mean_as<float>(args, count, y);
  } else {
    mean_as<double>(args, count, y);
  }
}

void blend(const uint8_t* a, const uint8_t* b, int64_t count, const Blend& args, uint8_t* y) {
  const auto a_gain = static_cast<int16_t>(args.a_gain);
  const auto b_gain = static_cast<int16_t>(args.b_gain);
  const int32_t offset = args.offset;
  const int32_t lo = args.lo;
  const int32_t hi = args.hi;
  for (int64_t i = 0; i < count; ++i) {
    const int32_t sum = static_cast<int32_t>(a[i]) * a_gain + static_cast<int32_t>(b[i]) * b_gain + offset;
    y[i] = static_cast<uint8_t>(between(lo, sum >> 14, hi));
  }
}

uint32_t masked_sum(const uint8_t* __restrict x, const uint8_t* __restrict mask, int64_t count) {
  uint32_t sum = 0;
  for (int64_t i = 0; i < count; ++i) sum += static_cast<uint8_t>(x[i] & mask[i]);
  return sum;
}

constexpr PixelLoops loops_for(Isa isa) {
  return {isa, quantise, dequantise, raise, add<uint8_t>, add<uint32_t>, mean, blend, masked_sum};
}

}  // namespace
}  // namespace nested_sparse
