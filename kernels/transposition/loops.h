// The loops of transposition.h, written once over a vector type S. The file of each instruction set includes it.
// Everything is in an unnamed namespace: the linker must never let callers of one instruction set use code compiled for
// another.
//
// S provides Vec, kLanes (a multiple of 4), quads, low, high, first, second, load, add, clip, splat and store. The
// first five work within the quarters of vectors, of four floats each; for quarters (a0 a1 a2 a3) and (b0 b1 b2 b3) low
// gives (a0 b0 a1 b1), high (a2 b2 a3 b3), first (a0 a1 b0 b1) and second (a2 a3 b2 b3). quads(p, pitch) has four
// floats of p, p + 4 pitch, p + 8 pitch .. as its quarters.
#pragma once

#include <algorithm>
#include <cstring>

#include "transposition.h"

namespace nested_sparse {
namespace {

template <class S>
struct Transposition {
  using Vec = typename S::Vec;
  static constexpr int64_t kLanes = S::kLanes;

  static void pack(const TransposeArgs& args) {
    run(args, [&](int64_t at, Vec values, int64_t) __attribute__((always_inline)) { S::store(args.to + at, values); });
  }

  static void finish(const TransposeArgs& args, const float* residual, Clip bounds) {
    const Vec lo = S::splat(bounds.lo);
    const Vec hi = S::splat(bounds.hi);
    run(args, [&](int64_t at, Vec values, int64_t count) __attribute__((always_inline)) {
      if (count == kLanes) {
        if (residual != nullptr) values = S::add(values, S::load(residual + at));
        return S::store(args.to + at, S::clip(values, lo, hi));
      }
      float part[kLanes] = {};
      if (residual != nullptr) {
        std::copy_n(residual + at, count, part);
        values = S::add(values, S::load(part));
      }
      S::store(part, S::clip(values, lo, hi));
      std::copy_n(part, count, args.to + at);
    });
  }

  // end(at, values, count): writes the values of `count` rows to args.to + at. Behind them are zeros.
  template <class End>
  static inline __attribute__((always_inline)) void run(const TransposeArgs& args, const End& end) {
    for (int64_t r = 0; r < args.rows; r += kLanes) {
      const int64_t height = std::min(kLanes, args.rows - r);
      for (int64_t c = 0; c < args.columns; c += 4) {
        const float* const from = args.from + r * args.from_pitch + c;
        const int64_t to = c * args.to_pitch + r;
        const int64_t width = std::min<int64_t>(4, args.columns - c);
        if (height == kLanes && width == 4) {
          strip(from, args.from_pitch, 4, [&](int64_t i, Vec values) __attribute__((always_inline)) {
            end(to + i * args.to_pitch, values, kLanes);
          });
        } else {
          float edge[kLanes * 4] = {};
          for (int64_t i = 0; i < height; ++i) std::copy_n(from + i * args.from_pitch, width, edge + 4 * i);
          strip(edge, 4, width, [&](int64_t i, Vec values) __attribute__((always_inline)) {
            end(to + i * args.to_pitch, values, height);
          });
        }
      }
    }
  }

  // Calls store(i, values) for the first `width` of four columns over kLanes rows. Each quarter of a vector is a square
  // of four by four, so eight shuffles within the quarters transpose all of them.
  template <class Store>
  static inline __attribute__((always_inline)) void strip(const float* from, int64_t pitch, int64_t width,
                                                          const Store& store) {
    Vec rows[4];
#pragma GCC unroll 4
    for (int64_t i = 0; i < 4; ++i) rows[i] = S::quads(from + i * pitch, pitch);
    const Vec low[] = {S::low(rows[0], rows[1]), S::low(rows[2], rows[3])};
    const Vec high[] = {S::high(rows[0], rows[1]), S::high(rows[2], rows[3])};
    const Vec columns[] = {S::first(low[0], low[1]), S::second(low[0], low[1]), S::first(high[0], high[1]),
                           S::second(high[0], high[1])};
#pragma GCC unroll 4
    for (int64_t i = 0; i < width; ++i) store(i, columns[i]);
  }
};

// Vectors of four floats, which every target of the compiler has, in registers or not.
struct Four {
  using Vec = float __attribute__((vector_size(16)));
  static constexpr int64_t kLanes = 4;
  static Vec quads(const float* p, int64_t) { return load(p); }
  static Vec low(Vec a, Vec b) { return shuffled<0, 4, 1, 5>(a, b); }
  static Vec high(Vec a, Vec b) { return shuffled<2, 6, 3, 7>(a, b); }
  static Vec first(Vec a, Vec b) { return shuffled<0, 1, 4, 5>(a, b); }
  static Vec second(Vec a, Vec b) { return shuffled<2, 3, 6, 7>(a, b); }
  static Vec load(const float* p) {
    Vec values;
    std::memcpy(&values, p, sizeof values);
    return values;
  }
  static Vec add(Vec a, Vec b) { return a + b; }
  static Vec splat(float value) { return Vec{} + value; }
  // As clip() of packed.h: a NaN stays.
  static Vec clip(Vec v, Vec lo, Vec hi) {
    v = v < lo ? lo : v;
    return v > hi ? hi : v;
  }
  static void store(float* p, Vec v) { std::memcpy(p, &v, sizeof v); }

 private:
  // Elements i, j, k, l of those of a, then b.
  template <int i, int j, int k, int l>
  static Vec shuffled(Vec a, Vec b) {
#if defined(__clang__)
    return __builtin_shufflevector(a, b, i, j, k, l);
#else
    using Ints = int32_t __attribute__((vector_size(16)));
    return __builtin_shuffle(a, b, Ints{i, j, k, l});
#endif
  }
};

}  // namespace
}  // namespace nested_sparse
