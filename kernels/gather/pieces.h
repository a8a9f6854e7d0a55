// The kernels of gather.h, written once over a vector type S; each instruction set's file includes it. Everything is in
// an unnamed namespace: code compiled for one instruction set must never be linked into another's callers.
//
// S gives: Vec, kLanes, load_piece<Step>(p, mask), load, merge (bitwise or), max (NaN where either is), store.
#pragma once

#include "gather.h"

namespace nested_sparse {
namespace {

template <class S, int Step>
void gather_channels(const GatherArgs& args) {
  float* to = args.rows;
  for (int64_t channel = args.channel_begin; channel < args.channel_end; ++channel) {
    for (int64_t i = 0; i < args.vectors; ++i) {
      const Piece& piece = args.pieces[i];
      const float* const from = args.x + piece.offset + channel * piece.pitch;
      S::store(to + i * S::kLanes, S::template load_piece<Step>(from, piece.mask));
    }
    for (int64_t i = 0; i < args.extra_count; ++i) {
      const Piece& piece = args.extras[i].piece;
      const float* const from = args.x + piece.offset + channel * piece.pitch;
      float* const at = to + args.extras[i].vector * S::kLanes;
      S::store(at, S::merge(S::load(at), S::template load_piece<Step>(from, piece.mask)));
    }
    to += args.vectors * S::kLanes;
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
