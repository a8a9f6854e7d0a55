// The kernels of gather.h, written once over a vector type S. The file of each instruction set includes it. Everything
// is in an unnamed namespace: the linker must never let callers of one instruction set use code compiled for another.
//
// S provides Vec, kLanes, load_piece<Step>(p, mask), load, merge (bitwise or), max (NaN where either is), store, splat
// and fma(a, b, c).
#pragma once

#include "gather.h"

namespace nested_sparse {
namespace {

// Takes two pieces a turn, and copies the arguments to local variables: the compiler cannot know that the stores do not
// change them. Both together save a sixth of the time.
template <class S, int Step>
void gather_channels(const GatherArgs& args) {
  const Piece* const pieces = args.pieces;
  const ExtraPiece* const extras = args.extras;
  const int64_t vectors = args.vectors;
  const int64_t extra_count = args.extra_count;
  const int64_t channel_end = args.channel_end;
  const float* const x = args.x;
  float* to = args.rows;
  for (int64_t channel = args.channel_begin; channel < channel_end; ++channel, to += vectors * S::kLanes) {
    const auto load = [x, channel](const Piece& piece) {
      return S::template load_piece<Step>(x + piece.offset + channel * piece.pitch, piece.mask);
    };
    int64_t i = 0;
    for (; i + 2 <= vectors; i += 2) {
      const typename S::Vec first = load(pieces[i]);
      const typename S::Vec second = load(pieces[i + 1]);
      S::store(to + i * S::kLanes, first);
      S::store(to + (i + 1) * S::kLanes, second);
    }
    if (i < vectors) S::store(to + i * S::kLanes, load(pieces[i]));
    for (int64_t e = 0; e < extra_count; ++e) {
      float* const at = to + extras[e].vector * S::kLanes;
      S::store(at, S::merge(S::load(at), load(extras[e].piece)));
    }
  }
}

template <class S>
void gather(const GatherArgs& args) {
  if (args.step == 1) {
    gather_channels<S, 1>(args);
  } else {
    gather_channels<S, 2>(args);
  }
}

// The sums of P vectors stay in registers for all taps. Without the pragmas gcc 12 clears them in memory and copies
// them there once more, which took as long as two taps.
template <class S, int P>
void add_taps(const DepthwiseArgs& args, const float* weights, const float* plane, float* wide) {
  const int32_t* const offsets = args.offsets;
  const int64_t taps = args.taps;
  typename S::Vec sums[P];
#pragma GCC unroll 8
  for (int i = 0; i < P; ++i) sums[i] = S::splat(0.0F);
  for (int64_t tap = 0; tap < taps; ++tap) {
    const float* const x = plane + offsets[tap];
    const typename S::Vec weight = S::splat(weights[tap]);
#pragma GCC unroll 8
    for (int i = 0; i < P; ++i) sums[i] = S::fma(weight, S::load(x + i * S::kLanes), sums[i]);
  }
#pragma GCC unroll 8
  for (int i = 0; i < P; ++i) S::store(wide + i * S::kLanes, sums[i]);
}

// The same for exactly `vectors` vectors, at most P.
template <class S, int P>
void add_taps_of(int64_t vectors, const DepthwiseArgs& args, const float* weights, const float* plane, float* wide) {
  if constexpr (P > 1) {
    if (vectors < P) return add_taps_of<S, P - 1>(vectors, args, weights, plane, wide);
  }
  add_taps<S, P>(args, weights, plane, wide);
}

// Copies what the planes of C channels show of the image. The arguments are in local variables: the compiler cannot
// know that the stores do not change them.
template <class S, int Step, int C>
void place_pieces(const DepthwiseArgs& args, int64_t channel) {
  const Piece* const pieces = args.pieces;
  const int32_t* const places = args.places;
  const int64_t count = args.piece_count;
  const int64_t plane_pitch = args.plane_pitch;
  const float* const x = args.x;
  float* const plane = args.plane;
  for (int64_t j = 0; j < count; ++j) {
    const Piece piece = pieces[j];
    const float* const from = x + piece.offset + channel * piece.pitch;
    float* const to = plane + places[j];
    for (int c = 0; c < C; ++c) {
      S::store(to + c * plane_pitch, S::template load_piece<Step>(from + c * piece.pitch, piece.mask));
    }
  }
}

// Computes C channels from `channel` on. They are copied, added up and stored together: what one of these steps wrote
// is read at other addresses by the next, and would not have reached L1 if there were a single short channel.
template <class S, int Step, int C>
void depthwise_channels(const DepthwiseArgs& args, int64_t channel) {
  constexpr int kTogether = 8;  // vectors: enough to hide the latency of the multiply-add
  const int64_t plane_pitch = args.plane_pitch;
  const int64_t pitch = args.pitch;
  const int64_t line_count = args.line_count;
  float* const sums = args.sums + (channel - args.channel_begin) * pitch;
  place_pieces<S, Step, C>(args, channel);
  const int64_t vectors = (args.count + S::kLanes - 1) / S::kLanes;
  const int64_t blocks = (vectors + kTogether - 1) / kTogether;
  for (int c = 0; c < C; ++c) {
    const float* const weights = args.weights + (channel + c) * args.taps;
    const float* const plane = args.plane + c * plane_pitch;
    float* const wide = line_count == 0 ? sums + c * pitch : args.wide + c * plane_pitch;
    for (int64_t block = 0; block < blocks; ++block) {
      const int64_t first = vectors * block / blocks;
      const int64_t end = vectors * (block + 1) / blocks;
      add_taps_of<S, kTogether>(end - first, args, weights, plane + first * S::kLanes, wide + first * S::kLanes);
    }
  }
  const Line* const lines = args.lines;
  const float* const wide = args.wide;
  for (int64_t j = 0; j < line_count; ++j) {
    const Line line = lines[j];
    for (int c = 0; c < C; ++c) {
      const float* const from = wide + c * plane_pitch + line.from;
      float* const to = sums + c * pitch + line.to;
      S::store(to, S::load(from));
      for (int32_t i = S::kLanes; i < line.count; i += S::kLanes) S::store(to + i, S::load(from + i));
    }
  }
}

template <class S, int Step>
void depthwise_step(const DepthwiseArgs& args) {
  int64_t channel = args.channel_begin;
  for (; channel + kChannelsTogether <= args.channel_end; channel += kChannelsTogether) {
    depthwise_channels<S, Step, kChannelsTogether>(args, channel);
  }
  for (; channel < args.channel_end; ++channel) depthwise_channels<S, Step, 1>(args, channel);
}

template <class S>
void depthwise(const DepthwiseArgs& args) {
  if (args.step == 1) {
    depthwise_step<S, 1>(args);
  } else {
    depthwise_step<S, 2>(args);
  }
}

template <class S>
void max_rows(const float* rows, int64_t taps, int64_t count, float* y) {
  for (int64_t i = 0; i < count; i += S::kLanes) {
    typename S::Vec most = S::load(rows + i);
    for (int64_t tap = 1; tap < taps; ++tap) most = S::max(S::load(rows + tap * count + i), most);
    S::store(y + i, most);
  }
}

}  // namespace
}  // namespace nested_sparse
