// Gathering: copies the input pixels that one tile of output pixels needs into a matrix with a row for each column of
// the weight ("im2col" of a tile). Pixels that the window takes from outside the image are zero.
//
// Under one tap, a vector of output pixels reads input pixels that lie `step` floats apart, up to the end of an image
// row or of an input tile. So a vector is gathered in pieces: lane i of a piece is
//
//   x[offset + channel * pitch + i * step]   where bit i * step of mask is set, else 0
//
// and a vector is the sum of its pieces, in which no two pieces set the same lane. Nearly every vector has one piece.
//
// Callers guarantee that the floats of set bits are readable. Kernels read no others.
#pragma once

#include <cstdint>

namespace nested_sparse {

struct Piece {
  int32_t offset;
  int32_t pitch;
  uint32_t mask;
};

// One more piece of a vector; `vector` counts the vectors of a channel's rows.
struct ExtraPiece {
  Piece piece;
  int32_t vector;
};

struct GatherArgs {
  const float* x;
  int64_t channel_begin, channel_end;
  int64_t vectors;      // of a channel: taps times the width of the tile
  const Piece* pieces;  // [vectors]
  const ExtraPiece* extras;
  int64_t extra_count;
  int32_t step;  // 1 or 2
  float* rows;   // [channels][vectors][lanes]
};

using GatherKernel = void (*)(const GatherArgs& args);

// For depthwise layers: weights the pieces and adds them up, without writing a matrix in between.
//
//   sums[c - channel_begin][i] = sum_t weights[c][t] * vector i of tap t of channel c
//
// for channels c in [channel_begin, channel_end) and the tile's `width` vectors i.
struct WeighArgs {
  GatherArgs tile;  // with `sums`, [channels][width][lanes], in place of `rows`
  int64_t width;
  const float* weights;  // [channels][taps], from channel 0 on
};

using WeighKernel = void (*)(const WeighArgs& args);

// y[i] = the largest rows[tap * count + i] of all taps, or NaN where one of them is. count: a multiple of the lanes.
using MaxKernel = void (*)(const float* rows, int64_t taps, int64_t count, float* y);

}  // namespace nested_sparse
