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

// For depthwise layers: copies a channel's pixels into a plane that has the padding, so that each tap finds its pixels
// at a fixed distance, and adds up the taps. For channels c in [channel_begin, channel_end):
//
//   plane[places[j] + lane] = lane `lane` of pieces[j], in order; other floats of the plane stay as they are, zero
//   wide[i] = sum_t weights[c * taps + t] * plane[offsets[t] + i]                 for i in whole vectors up to `count`
//   sums[(c - channel_begin) * pitch + line.to + i] = wide[line.from + i]         for each line, i in 0 .. line.count -
//   1
//
// Without lines, the sums of a channel are its `wide`.
//
// Pieces are in the order of their places, and lines in that of `to`: whole vectors are written, so that what lies up
// to a vector behind the last one is written, too.
constexpr int kChannelsTogether = 4;

struct Line {
  int32_t from, to, count;
};

struct DepthwiseArgs {
  const float* x;
  int64_t channel_begin, channel_end;
  const Piece* pieces;
  const int32_t* places;
  int64_t piece_count;
  int32_t step;         // 1 or 2
  float* plane;         // kChannelsTogether planes, each readable up to a vector behind what taps read
  int64_t plane_pitch;  // floats from one to the next, and between those of `wide`
  const int32_t* offsets;
  int64_t taps;
  const float* weights;
  int64_t count;
  float* wide;
  const Line* lines;
  int64_t line_count;
  float* sums;
  int64_t pitch;
};

using DepthwiseKernel = void (*)(const DepthwiseArgs& args);

// y[i] = the largest rows[tap * count + i] of all taps, or NaN where one of them is. count: a multiple of the lanes.
using MaxKernel = void (*)(const float* rows, int64_t taps, int64_t count, float* y);

}  // namespace nested_sparse
