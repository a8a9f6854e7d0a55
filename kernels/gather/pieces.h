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

// Sums C channels by P vectors in registers, so that each piece is read once for all C channels.
template <class S, int Step, int C, int P>
void weigh_vectors(const WeighArgs& args, int64_t channel, int64_t first, float* sums) {
  const int64_t taps = args.tile.vectors / args.width;
  const int64_t width = args.width;
  const Piece* pieces = args.tile.pieces + first;
  const float* const weights = args.weights + channel * taps;
  const float* const x = args.tile.x;
  typename S::Vec sum[C][P];
  for (int c = 0; c < C; ++c) {
    for (int i = 0; i < P; ++i) sum[c][i] = S::splat(0.0F);
  }
  for (int64_t tap = 0; tap < taps; ++tap, pieces += width) {
    for (int i = 0; i < P; ++i) {
      const Piece piece = pieces[i];
      const float* p = x + piece.offset + channel * piece.pitch;
      for (int c = 0; c < C; ++c, p += piece.pitch) {
        sum[c][i] = S::fma(S::splat(weights[c * taps + tap]), S::template load_piece<Step>(p, piece.mask), sum[c][i]);
      }
    }
  }
  for (int c = 0; c < C; ++c) {
    for (int i = 0; i < P; ++i) S::store(sums + (c * width + first + i) * S::kLanes, sum[c][i]);
  }
}

// Adds the extra pieces, which lie in the order of their taps.
template <class S, int Step, int C>
void weigh_extras(const WeighArgs& args, int64_t channel, float* sums) {
  const int64_t taps = args.tile.vectors / args.width;
  int64_t tap = 0;
  for (int64_t e = 0; e < args.tile.extra_count; ++e) {
    const ExtraPiece& extra = args.tile.extras[e];
    while (extra.vector >= (tap + 1) * args.width) ++tap;
    const float* p = args.tile.x + extra.piece.offset + channel * extra.piece.pitch;
    float* at = sums + (extra.vector - tap * args.width) * S::kLanes;
    const float* const weights = args.weights + channel * taps + tap;
    for (int c = 0; c < C; ++c, p += extra.piece.pitch, at += args.width * S::kLanes) {
      const auto piece = S::template load_piece<Step>(p, extra.piece.mask);
      S::store(at, S::fma(S::splat(weights[c * taps]), piece, S::load(at)));
    }
  }
}

template <class S, int Step, int C>
void weigh_channels(const WeighArgs& args, int64_t channel, float* sums) {
  int64_t first = 0;
  for (; first + 2 <= args.width; first += 2) weigh_vectors<S, Step, C, 2>(args, channel, first, sums);
  if (first < args.width) weigh_vectors<S, Step, C, 1>(args, channel, first, sums);
  weigh_extras<S, Step, C>(args, channel, sums);
}

template <class S, int Step>
void weigh_tile(const WeighArgs& args) {
  const int64_t end = args.tile.channel_end;
  int64_t channel = args.tile.channel_begin;
  float* sums = args.tile.rows;
  for (; channel + 4 <= end; channel += 4, sums += 4 * args.width * S::kLanes) {
    weigh_channels<S, Step, 4>(args, channel, sums);
  }
  for (; channel < end; ++channel, sums += args.width * S::kLanes) weigh_channels<S, Step, 1>(args, channel, sums);
}

template <class S>
void weigh(const WeighArgs& args) {
  if (args.tile.step == 1) {
    weigh_tile<S, 1>(args);
  } else {
    weigh_tile<S, 2>(args);
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
