// The kernels of gather.h, written once over a vector type S; each instruction set's file includes it. Everything is in
// an unnamed namespace: code compiled for one instruction set must never be linked into another's callers.
//
// S gives: Vec, kLanes, load_piece<Step>(p, mask), load, merge (bitwise or), max (NaN where either is), store.
#pragma once

#include "gather.h"

namespace nested_sparse {
namespace {

// Two pieces a turn and copies of the arguments, which the compiler cannot know that the stores leave alone: a sixth of
// the time.
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
