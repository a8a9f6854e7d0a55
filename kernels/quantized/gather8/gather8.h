// Gathering of bytes: copies the pixels that one tile of output positions needs into a matrix with a row of 64 bytes
// for each column of the weight, an input channel and a tap of the window.
//
// Under one tap, output positions that follow one another read input pixels that lie `step` bytes apart, up to the end
// of an image row or of an input tile. So a row of the matrix consists of runs:
//
//   row[to + i] = x[channel * channel_step + source + i * step]    for i in 0 .. count - 1
//
// and of the zero point where no run writes. The runs of a row do not overlap, and rise with `to`.
//
// Callers guarantee that the bytes of the runs are readable. Kernels read no others.
#pragma once

#include <cstdint>

namespace nested_sparse {

struct ByteRun {
  int32_t source;
  uint8_t to;
  uint8_t count;  // 1 to 64
};

struct Gather8Args {
  const uint8_t* x;  // channel 0 of the image
  int64_t channel_begin, channel_end;
  int64_t channel_step;  // bytes from one channel to the next
  const ByteRun* runs;
  const int32_t* first;  // [taps + 1] the runs of tap t are first[t] to first[t + 1] - 1
  int64_t taps;
  int32_t step;
  uint8_t zero;
  uint8_t* rows;  // [channels][taps][64]
};

using Gather8Kernel = void (*)(const Gather8Args& args);

// The kernels of the other instruction sets leave steps above 2 to gather8_scalar.
void gather8_scalar(const Gather8Args& args);

}  // namespace nested_sparse
