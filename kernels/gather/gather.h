// Gathering: the input pixels that one tile of output pixels needs, as the rows of a matrix, one row per column of the
// weight ("im2col" of a tile). What the window takes from outside the image is zero.
//
// A vector of output pixels under one tap reads a run of input pixels, `step` floats apart, wherever the run does not
// meet the end of an image row or of an input tile. So a vector is gathered in pieces: lane i of a piece is
//
//   x[offset + channel * pitch + i * step]   where bit i * step of mask is set, else 0
//
// and a vector is the sum of its pieces, whose lanes are disjoint. Nearly every vector has one piece.
//
// Callers guarantee that the addressed floats of set bits are readable; no others are read.
#pragma once

#include <cstdint>

namespace nested_sparse {

struct Piece {
  int32_t offset;
  int32_t pitch;
  uint32_t mask;
};

// A further piece of vector `vector` of a channel's rows.
struct ExtraPiece {
  Piece piece;
  int32_t vector;
};

struct GatherArgs {
  const float* x;
  int64_t channel_begin, channel_end;
  int64_t vectors;      // of a channel: taps times the tile's width
  const Piece* pieces;  // [vectors]
  const ExtraPiece* extras;
  int64_t extra_count;
  int32_t step;  // 1 or 2
  float* rows;   // [channels][vectors][lanes]
};

using GatherKernel = void (*)(const GatherArgs& args);

// Depthwise layers: sums of weighted pieces, with no matrix between.
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

// y[i] = the largest of rows[tap * count + i], or NaN where one is; `count` is a multiple of the vector's lanes.
using MaxKernel = void (*)(const float* rows, int64_t taps, int64_t count, float* y);

}  // namespace nested_sparse
