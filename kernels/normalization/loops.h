// The loop of normalization.h, written once over vectors of kLanes floats. The file of each instruction set includes
// it. Everything is in an unnamed namespace: the linker must never let callers of one instruction set use code compiled
// for another.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>

#include "normalization.h"

namespace nested_sparse {
namespace {

template <int64_t kLanes>
struct Normalization {
  typedef float Vec __attribute__((vector_size(kLanes * sizeof(float))));  // gcc ignores the size in a `using`
  static_assert(sizeof(Vec) == kLanes * sizeof(float));

  // Some rows at a time: to add up the lanes of a sum, to divide and to take the root takes as long as a row of a few
  // hundred columns does, and the next rows' sums need not wait for it.
  static void run(const NormalizeArgs& args) {
    const float count = static_cast<float>(args.columns);
    for (int64_t first = 0; first < args.rows; first += kRows) {
      const int64_t rows = std::min(kRows, args.rows - first);
      const float* const x = args.x + first * args.columns;
      float* const y = args.y + first * args.columns;
      float means[kRows];
      float factors[kRows];
      for (int64_t r = 0; r < rows; ++r) {
        means[r] = sum(x + r * args.columns, args.columns, 0.0F, [](const Vec& v) { return v; }) / count;
      }
      for (int64_t r = 0; r < rows; ++r) {
        const float mean = means[r];
        const auto square = [mean](const Vec& v) { return (v - mean) * (v - mean); };
        factors[r] = sum(x + r * args.columns, args.columns, mean, square) / count;
      }
      for (int64_t r = 0; r < rows; ++r) factors[r] = 1.0F / std::sqrt(factors[r] + args.epsilon);
      for (int64_t r = 0; r < rows; ++r) {
        const int64_t at = r * args.columns;
        write(x + at, args, means[r], factors[r], y + at);
      }
    }
  }

 private:
  static constexpr int64_t kRows = 8;

  static void write(const float* x, const NormalizeArgs& args, float mean, float factor, float* y) {
    int64_t i = 0;
    for (; i + kLanes <= args.columns; i += kLanes) {
      store(y + i, (load(x + i) - mean) * factor * load(args.scale + i) + load(args.shift + i));
    }
    for (; i < args.columns; ++i) y[i] = (x[i] - mean) * factor * args.scale[i] + args.shift[i];
  }

  static Vec load(const float* p) {
    Vec values;
    std::memcpy(&values, p, sizeof values);
    return values;
  }
  static void store(float* p, const Vec& values) { std::memcpy(p, &values, sizeof values); }

  // The sum of term(x[i]); term(outside) is 0. Four sums at a time: an addition waits for the one before.
  template <class Term>
  static float sum(const float* x, int64_t count, float outside, const Term& term) {
    Vec sums[4] = {};
    int64_t i = 0;
    for (; i + 4 * kLanes <= count; i += 4 * kLanes) {
#pragma GCC unroll 4
      for (int64_t k = 0; k < 4; ++k) sums[k] += term(load(x + i + k * kLanes));
    }
    for (; i + kLanes <= count; i += kLanes) sums[0] += term(load(x + i));
    if (i < count) {
      float rest[kLanes];
      std::fill_n(std::copy_n(x + i, count - i, rest), kLanes - (count - i), outside);
      sums[1] += term(load(rest));
    }
    float parts[kLanes];
    store(parts, (sums[0] + sums[1]) + (sums[2] + sums[3]));
    for (int64_t half = kLanes / 2; half > 0; half /= 2) {
      for (int64_t k = 0; k < half; ++k) parts[k] += parts[k + half];
    }
    return parts[0];
  }
};

}  // namespace
}  // namespace nested_sparse
