// The loops of pixels8.h, written once. The file of each instruction set includes it and is compiled with its flags,
// and with -ffp-contract=off and -fno-trapping-math, without which gcc does not vectorise comparisons of floats.
// Everything is in an unnamed namespace: the linker must never let callers of one instruction set use code compiled for
// another.
#pragma once

#include <cstring>
#include <type_traits>

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

// Joins the taps three at a time, because a window of three is the commonest. y must not overlap x.
template <class In, class Out, class Join>
void reduce(const Taps<In>& args, int64_t count, Out* __restrict y, const Join& join) {
  const In* __restrict x = args.x;
  const int64_t step = args.step;
  int64_t left = args.taps;
  if (left >= 3) {
    for (int64_t i = 0; i < count; ++i) y[i] = join(join(Out{x[i]}, Out{x[i + step]}), Out{x[i + 2 * step]});
    left -= 3;
  } else if (left == 2) {
    for (int64_t i = 0; i < count; ++i) y[i] = join(Out{x[i]}, Out{x[i + step]});
    left = 0;
  } else {
    for (int64_t i = 0; i < count; ++i) y[i] = x[i];
    left = 0;
  }
  for (x += 3 * step; left >= 2; left -= 2, x += 2 * step) {
    for (int64_t i = 0; i < count; ++i) y[i] = join(join(y[i], Out{x[i]}), Out{x[i + step]});
  }
  if (left == 0) return;
  for (int64_t i = 0; i < count; ++i) y[i] = join(y[i], Out{x[i]});
}

void largest(const Taps<uint8_t>& x, int64_t count, uint8_t* y) {
  reduce(x, count, y, [](uint8_t a, uint8_t b) { return a > b ? a : b; });
}

template <class In>
void sum(const Taps<In>& x, int64_t count, uint32_t* y) {
  reduce(x, count, y, [](uint32_t a, uint32_t b) { return a + b; });
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

void thin(const uint8_t* x, int64_t stride, int64_t count, uint8_t* y) {
  with_stride(stride, [&](auto step) {
    const uint8_t* __restrict const from = x;
    uint8_t* __restrict const to = y;
    for (int64_t i = 0; i < count; ++i) to[i] = from[i * step];
  });
}

// Real: float where 2 sum + n < 2^24, so that no quotient is rounded up to the next integer; double otherwise.
template <class Real>
void mean_as(const Means& args, int64_t count, uint8_t* y) {
  with_stride(args.stride, [&](auto stride) {
    const uint32_t* __restrict const sums = args.sums;
    const int32_t* __restrict const columns = args.columns;
    uint8_t* __restrict const to = y;
    const auto rows = static_cast<Real>(args.rows);
    const auto taps = static_cast<Real>(args.taps);
    const auto zero = static_cast<Real>(args.zero);
    const bool counts_padding = args.counts_padding;
    for (int64_t i = 0; i < count; ++i) {
      const Real seen = rows * static_cast<Real>(columns[i]);
      const Real padding = counts_padding ? taps - seen : Real{0};
      const Real n = seen + padding;
      const Real sum = static_cast<Real>(static_cast<int32_t>(sums[i * stride])) + zero * padding;
      const Real mean = (2 * sum + n) / (2 * (n > 0 ? n : Real{1}));
      to[i] = static_cast<uint8_t>(static_cast<int32_t>(n > 0 ? mean : zero));
    }
  });
}

void mean(const Means& args, int64_t count, uint8_t* y) {
  if (args.taps <= 1 << 15) {
    mean_as<float>(args, count, y);
  } else {
    mean_as<double>(args, count, y);
  }
}

void blend(const uint8_t* __restrict a, const uint8_t* __restrict b, int64_t count, const Blend& args,
           uint8_t* __restrict y) {
  const auto a_gain = static_cast<int16_t>(args.a_gain);
  const auto b_gain = static_cast<int16_t>(args.b_gain);
  const int32_t offset = args.offset;
  const int32_t lo = args.lo;
  const int32_t hi = args.hi;
  for (int64_t i = 0; i < count; ++i) {
    const int32_t sum = int32_t{a[i]} * a_gain + int32_t{b[i]} * b_gain + offset;
    y[i] = static_cast<uint8_t>(between(lo, sum >> 11, hi));
  }
}

int64_t masked_sum(const uint8_t* x, int64_t step, const uint8_t* mask, int64_t tiles) {
  int64_t total = 0;
  for (int64_t tile = 0; tile < tiles; ++tile, x += step, mask += 64) {
    uint32_t sum = 0;
    for (int i = 0; i < 64; ++i) sum += static_cast<uint8_t>(x[i] & mask[i]);
    total += sum;
  }
  return total;
}

Bounds bounds(const float* __restrict x, int64_t count) {
  constexpr int64_t kLanes = 16;  // compilers do not make them of one minimum, because floats have two zeros
  float lo[kLanes] = {};
  float hi[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (int64_t j = 0; j < kLanes; ++j) lo[j] = x[i + j] < lo[j] ? x[i + j] : lo[j];
    for (int64_t j = 0; j < kLanes; ++j) hi[j] = x[i + j] > hi[j] ? x[i + j] : hi[j];
  }
  for (; i < count; ++i) {
    lo[0] = x[i] < lo[0] ? x[i] : lo[0];
    hi[0] = x[i] > hi[0] ? x[i] : hi[0];
  }
  for (int64_t j = 1; j < kLanes; ++j) {
    lo[0] = lo[j] < lo[0] ? lo[j] : lo[0];
    hi[0] = hi[j] > hi[0] ? hi[j] : hi[0];
  }
  return {lo[0], hi[0]};
}

void dequantise_sums(const RowOfSums& row, int64_t count, float* __restrict y) {
  const int32_t* __restrict const sums = row.sums;
  const int32_t* __restrict const zeros = row.zeros;
  const float* __restrict const scales = row.scales;
  const auto weight_sum = static_cast<uint32_t>(row.weight_sum);
  const float gain = row.gain;
  const float shift = row.shift;
  for (int64_t i = 0; i < count; ++i) {
    const uint32_t sum = static_cast<uint32_t>(sums[i]) - static_cast<uint32_t>(zeros[i]) * weight_sum;
    y[i] = static_cast<float>(static_cast<int32_t>(sum)) * (scales[i] * gain) + shift;
  }
}

constexpr PixelLoops loops_for(Isa isa) {
  return {isa,  quantise, dequantise, largest,    sum<uint8_t>, sum<uint32_t>,
          thin, mean,     blend,      masked_sum, bounds,       dequantise_sums};
}

}  // namespace
}  // namespace nested_sparse
