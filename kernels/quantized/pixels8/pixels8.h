// Loops over the pixels of one channel, for the operators beside convolutions: they quantise, pool, add and scale.
//
// They are plain loops (loops.h), compiled with the flags of each instruction set; compilers vectorise them well. Every
// result is an integer, or one float operation, so all instruction sets give the same bits. Pointers need no alignment.
// `y` overlaps no input.
#pragma once

#include <cstdint>

#include "../../isa.h"

namespace nested_sparse {

// x[i + t * step] of the taps t in 0 .. taps - 1, at least one.
template <class T>
struct Taps {
  const T* x;
  int64_t taps;
  int64_t step;
};

// y = clamp((a * a_gain + b * b_gain + offset) >> 11, lo, hi). The sum fits into 32 bits, a gain into 16.
struct Blend {
  int32_t a_gain, b_gain, offset;
  int32_t lo, hi;
};

// The means of a row of windows, (2 sum + n) div 2 n. Window i has the sum sums[i * stride], without padding.
struct Means {
  const uint32_t* sums;
  int64_t stride;
  const int32_t* columns;  // columns of the image that each window sees
  int64_t rows;            // rows of the image that each window sees
  int64_t taps;            // of a window; at most 2^23
  bool counts_padding;     // n = taps, and padding adds `zero`; or else n = rows * columns, and `zero` where that is 0
  uint8_t zero;
};

struct Bounds {
  float lo, hi;
};

// A row of a linear layer's sums of weight * byte, for many rows of its input at once: y[i] = (sums[i] - zeros[i] *
// weight_sum) * (scales[i] * gain) + shift. The integers wrap; each float operation is rounded on its own.
struct RowOfSums {
  const int32_t* sums;
  const int32_t* zeros;
  const float* scales;
  int32_t weight_sum;
  float gain, shift;
};

struct PixelLoops {
  Isa isa;
  // y[i] = clamp(rint(x[i] / scale) + zero, 0, 255), rounding half to even; NaN gives `zero`. The division is float32.
  void (*quantise)(const float* x, int64_t count, float scale, uint8_t zero, uint8_t* y);
  // y[i] = scale * (x[i] - zero)
  void (*dequantise)(const uint8_t* x, int64_t count, float scale, uint8_t zero, float* y);
  // y[i] = the largest under the taps
  void (*largest)(const Taps<uint8_t>& x, int64_t count, uint8_t* y);
  // y[i] = the sum over the taps
  void (*sum_bytes)(const Taps<uint8_t>& x, int64_t count, uint32_t* y);
  void (*sum)(const Taps<uint32_t>& x, int64_t count, uint32_t* y);
  // y[i] = x[i * stride]; strides 1 and 2 are fast
  void (*thin)(const uint8_t* x, int64_t stride, int64_t count, uint8_t* y);
  void (*mean)(const Means& means, int64_t count, uint8_t* y);
  void (*blend)(const uint8_t* a, const uint8_t* b, int64_t count, const Blend& blend, uint8_t* y);
  // The sum of x & mask over tiles of 64 bytes: those of x are `step` bytes apart, those of the mask follow one
  // another.
  int64_t (*masked_sum)(const uint8_t* x, int64_t step, const uint8_t* mask, int64_t tiles);
  // The least and the largest of x and zero; a NaN counts for none.
  Bounds (*bounds)(const float* x, int64_t count);
  void (*dequantise_sums)(const RowOfSums& row, int64_t count, float* y);
};

const PixelLoops& find_pixel_loops(Isa isa);

}  // namespace nested_sparse
