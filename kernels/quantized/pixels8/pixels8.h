// Loops over the pixels of one channel, for the operators beside convolutions: they quantise, pool, add and scale.
//
// They are plain loops (loops.h), compiled with the flags of each instruction set; compilers vectorise them well. Every
// result is an integer, or one float operation, so all instruction sets give the same bits. Pointers need no alignment,
// and `y` overlaps no input unless it says so.
#pragma once

#include <cstdint>

#include "../../isa.h"

namespace nested_sparse {

// The pixels that one loop reads: x[i * stride] for i in 0 .. count - 1. A stride of 1 or 2 is fast.
template <class T>
struct Pixels {
  const T* x;
  int64_t stride;
  int64_t count;
};

// y = clamp((a * a_gain + b * b_gain + offset) >> 14, lo, hi), which must fit into 32 bits before the shift.
struct Blend {
  int32_t a_gain;  // 16 bits
  int32_t b_gain;
  int32_t offset;
  int32_t lo, hi;
};

// The mean of the pixels under a window, for one row of windows: (2 sum + n) div 2 n.
struct Mean {
  const uint32_t* sums;     // of the pixels of the image that each window sees
  const int32_t* columns;   // columns of the image that each window sees
  int64_t rows;             // rows of the image that each window sees
  int64_t taps;             // of a window
  bool counts_padding;      // n = taps, and padding adds `zero`; or else n = rows * columns
  uint8_t zero;             // the mean of nothing
};

struct PixelLoops {
  Isa isa;
  // y = clamp(rint(x / scale) + zero, 0, 255), rounding half to even; NaN gives `zero`. The division is float32.
  void (*quantise)(const float* x, int64_t count, float scale, uint8_t zero, uint8_t* y);
  // y = scale * (x - zero)
  void (*dequantise)(const uint8_t* x, int64_t count, float scale, uint8_t zero, float* y);
  // y = max(y, x)
  void (*raise)(const Pixels<uint8_t>& x, uint8_t* y);
  // y += x
  void (*add)(const Pixels<uint8_t>& x, uint32_t* y);
  void (*add_sums)(const Pixels<uint32_t>& x, uint32_t* y);
  void (*mean)(const Mean& mean, int64_t count, uint8_t* y);
  // y may be a or b.
  void (*blend)(const uint8_t* a, const uint8_t* b, int64_t count, const Blend& blend, uint8_t* y);
  // The sum of x & mask; count: a multiple of 64, at most 2^24.
  uint32_t (*masked_sum)(const uint8_t* x, const uint8_t* mask, int64_t count);
};

const PixelLoops& find_pixel_loops(Isa isa);

}  // namespace nested_sparse
