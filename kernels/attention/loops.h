// The loops of attention.h, written once with vectors of the compiler. The file of each instruction set includes it and
// is compiled with its flags, and with -fno-trapping-math (activation/loops.h). Everything is in an unnamed namespace:
// the linker must never let callers of one instruction set use code compiled for another.
#pragma once

#include <algorithm>
#include <cstring>
#include <limits>

#include "../exponential.h"
#include "attention.h"

namespace nested_sparse {
namespace {

constexpr float kClosed = -std::numeric_limits<float>::infinity();

// Set::Vec: a vector of the compiler, Set::Bits one of as many uint32_t. Set::larger(a, b) is b where either is no
// number. kRows: queries of a strip; kRows by kVectors sums are in registers.
template <class Set, int kRows>
struct Head {
  using Vec = typename Set::Vec;
  static constexpr int kLanes = sizeof(Vec) / sizeof(float);
  static constexpr int kVectors = 2;
  static constexpr int kPanel = kVectors * kLanes;

  static Vec load(const float* from) {
    Vec values;
    std::memcpy(&values, from, sizeof values);
    return values;
  }
  static void store(float* to, Vec values) { std::memcpy(to, &values, sizeof values); }

  // The lanes of each of kCount vectors joined. Row by row, each would wait for the one before.
  template <int kCount, class Join>
  static void join_lanes(const Vec (&values)[kCount], const Join& join, float (&to)[kCount]) {
    alignas(sizeof(Vec)) float lanes[kCount][kLanes];
#pragma GCC unroll 16
    for (int r = 0; r < kCount; ++r) store(lanes[r], values[r]);
    for (int r = 0; r < kCount; ++r) to[r] = lanes[r][0];
    for (int i = 1; i < kLanes; ++i) {
#pragma GCC unroll 16
      for (int r = 0; r < kCount; ++r) to[r] = join(to[r], lanes[r][i]);
    }
  }
  static float add(float a, float b) { return a + b; }
  static float larger(float a, float b) { return a > b ? a : b; }

  // Rows by kVectors scores. `q` are the queries of the strip, some perhaps twice.
  static void panel_scores(const float* const (&q)[kRows], const float* panel, int64_t width, float scale, float* to,
                           int64_t pitch) {
    Vec sums[kRows][kVectors] = {};
    for (int64_t i = 0; i < width; ++i, panel += kPanel) {
      Vec keys[kVectors];
#pragma GCC unroll 8
      for (int j = 0; j < kVectors; ++j) keys[j] = load(panel + j * kLanes);
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) {
        const float value = q[r][i];
#pragma GCC unroll 8
        for (int j = 0; j < kVectors; ++j) sums[r][j] += value * keys[j];
      }
    }
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
      for (int j = 0; j < kVectors; ++j) store(to + r * pitch + j * kLanes, scale * sums[r][j]);
    }
  }

  // The sum of the lanes, two halves at a time.
  static float total(Vec values) {
    alignas(sizeof(Vec)) float each[kLanes];
    store(each, values);
    for (int width = kLanes / 2; width > 0; width /= 2) {
      for (int i = 0; i < width; ++i) each[i] += each[i + width];
    }
    return each[0];
  }

  // Scores of one query with the keys as they lie. Four at a time hide the latency of the sums.
  static void key_scores(const HeadArgs& args, const float* q, int64_t keys, float* to) {
    constexpr int kTogether = 4;
    const int64_t whole = args.width / kLanes * kLanes;
    for (int64_t first = 0; first < keys; first += kTogether) {
      const float* k[kTogether];
      for (int t = 0; t < kTogether; ++t) k[t] = args.k + std::min(first + t, keys - 1) * args.k_pitch;
      Vec sums[kTogether] = {};
      for (int64_t i = 0; i < whole; i += kLanes) {
        const Vec query = load(q + i);
#pragma GCC unroll 4
        for (int t = 0; t < kTogether; ++t) sums[t] += query * load(k[t] + i);
      }
      const int count = static_cast<int>(std::min<int64_t>(kTogether, keys - first));
      for (int t = 0; t < count; ++t) {
        float sum = total(sums[t]);
        for (int64_t i = whole; i < args.width; ++i) sum += q[i] * k[t][i];
        to[first + t] = args.scale * sum;
      }
    }
  }

  static int64_t padded(int64_t count) { return (count + kLanes - 1) / kLanes * kLanes; }

  // Adds the mask to the scores of a row, closes those beyond `keys` up to a whole vector, and returns the largest of
  // each lane.
  static Vec mask_row(const HeadArgs& args, int64_t row, int64_t keys, float* scores) {
    const int64_t end = padded(keys);
    for (int64_t i = keys; i < end; ++i) scores[i] = kClosed;
    if (args.mask != nullptr) {
      const float* const mask = args.mask + row * args.mask_pitch;
      if (args.mask_step == 1) {
        for (int64_t i = 0; i < keys; ++i) scores[i] += mask[i];
      } else {
        for (int64_t i = 0; i < keys; ++i) scores[i] += *mask;
      }
    }
    Vec most = load(scores);
    for (int64_t i = kLanes; i < end; i += kLanes) most = Set::larger(load(scores + i), most);
    return most;
  }

  // Scores become weights, not yet divided by their sum; returns the sum of each lane.
  static Vec weigh_row(int64_t keys, float base, float* scores) {
    Vec sum{};
    for (int64_t i = 0, end = padded(keys); i < end; i += kLanes) {
      const Vec power = Set::larger(Vec{} + kLeastExponent, load(scores + i) - base);  // 0 at most
      const Vec weights = bounded_exponential<Vec, typename Set::Bits>(power);
      store(scores + i, weights);
      sum += weights;
    }
    return sum;
  }

  // The softmax of kCount rows from `row` on but for the division: `inverse` gets the reciprocals of the sums, 0 where
  // a sum is 0. Rows beyond `rows` are left alone.
  template <int kCount>
  static void softmax(const HeadArgs& args, int64_t row, int64_t rows, float* scores, int64_t pitch,
                      float (&inverse)[kCount]) {
    Vec lanes[kCount] = {};
    float joined[kCount];
    for (int64_t r = 0; r < rows; ++r) lanes[r] = mask_row(args, row + r, seen(args, row + r), scores + r * pitch);
    join_lanes(lanes, larger, joined);
    for (int64_t r = 0; r < rows; ++r) {
      const float base = joined[r] == kClosed ? 0.0F : joined[r];  // minus infinity all over: each weight is 0
      lanes[r] = weigh_row(seen(args, row + r), base, scores + r * pitch);
    }
    join_lanes(lanes, add, joined);
    for (int r = 0; r < kCount; ++r) inverse[r] = joined[r] == 0.0F ? 0.0F : 1.0F / joined[r];
  }

  // kCount rows by kWide vectors of y, from column `at` on. `valid`: columns of these that y has.
  template <int kCount, int kWide>
  static void mix(const HeadArgs& args, const float* weights, int64_t pitch, int64_t keys, const float* inverse,
                  int64_t at, int64_t row, int64_t rows) {
    Vec sums[kCount][kWide] = {};
    const float* v = args.v + at;
    for (int64_t t = 0; t < keys; ++t, v += args.v_pitch) {
      Vec values[kWide];
#pragma GCC unroll 8
      for (int j = 0; j < kWide; ++j) values[j] = load(v + j * kLanes);
#pragma GCC unroll 16
      for (int r = 0; r < kCount; ++r) {
        const float weight = weights[r * pitch + t];
#pragma GCC unroll 8
        for (int j = 0; j < kWide; ++j) sums[r][j] += weight * values[j];
      }
    }
    const int64_t valid = std::min<int64_t>(kWide * kLanes, args.value_width - at);
#pragma GCC unroll 16
    for (int r = 0; r < kCount; ++r) {
      if (r >= rows) break;
      float* const to = args.y + (row + r) * args.y_pitch + at;
      if (valid == kWide * kLanes) {
#pragma GCC unroll 8
        for (int j = 0; j < kWide; ++j) store(to + j * kLanes, inverse[r] * sums[r][j]);
      } else {
        alignas(sizeof(Vec)) float each[kWide * kLanes];
        for (int j = 0; j < kWide; ++j) store(each + j * kLanes, inverse[r] * sums[r][j]);
        std::copy_n(each, valid, to);
      }
    }
  }

  // All columns of some rows of y: a few vectors at a time, then one by one.
  template <int kCount, int kWide>
  static void mix_all(const HeadArgs& args, const float* weights, int64_t pitch, int64_t keys, const float* inverse,
                      int64_t row, int64_t rows) {
    const int64_t end = padded(args.value_width);
    int64_t at = 0;
    for (; at + kWide * kLanes <= end; at += kWide * kLanes) {
      mix<kCount, kWide>(args, weights, pitch, keys, inverse, at, row, rows);
    }
    for (; at < end; at += kLanes) mix<kCount, 1>(args, weights, pitch, keys, inverse, at, row, rows);
  }

  static int64_t seen(const HeadArgs& args, int64_t row) {
    return args.causal ? std::min(args.keys, row + 1) : args.keys;
  }

  static void packed(const HeadArgs& args, int64_t begin, int64_t end) {
    const int64_t pitch = (args.keys + kPanel - 1) / kPanel * kPanel;
    for (int64_t row = begin; row < end; row += kRows) {
      const int64_t rows = std::min<int64_t>(kRows, end - row);
      const int64_t keys = seen(args, row + rows - 1);
      const float* q[kRows];
      for (int r = 0; r < kRows; ++r) q[r] = args.q + std::min(row + r, end - 1) * args.q_pitch;
      for (int64_t first = 0; first < keys; first += kPanel) {
        panel_scores(q, args.panels + first * args.width, args.width, args.scale, args.scores + first, pitch);
      }
      float inverse[kRows];
      softmax(args, row, rows, args.scores, pitch, inverse);
      for (int64_t r = 0; r < rows; ++r) {
        float* const weights = args.scores + r * pitch;
        for (int64_t t = seen(args, row + r); t < keys; ++t) weights[t] = 0.0F;
      }
      mix_all<kRows, kVectors>(args, args.scores, pitch, keys, inverse, row, rows);
    }
  }

  static void single(const HeadArgs& args, int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const int64_t keys = seen(args, row);
      key_scores(args, args.q + row * args.q_pitch, keys, args.scores);
      float inverse[1];
      softmax(args, row, 1, args.scores, 0, inverse);
      mix_all<1, 4>(args, args.scores, 0, keys, inverse, row, 1);
    }
  }
};

}  // namespace
}  // namespace nested_sparse
