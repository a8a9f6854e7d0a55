// The gather of instruction sets without masked loads of bytes: it copies runs piece by piece. A run that is no
// multiple of a piece ends with a piece that overlaps the one before.
//
// S provides copy(to, from) of 16 bytes, and every_second8 and every_second16(to, from) of the first of every two
// bytes.
#pragma once

#include <cstring>

#include "gather8.h"

namespace nested_sparse {
namespace {

// Calls piece(first) for pieces of Size bytes that cover `count` of them, which are Size or more.
template <int Size, class Piece>
inline void cover(int count, const Piece& piece) {
  for (int i = 0; i + Size < count; i += Size) piece(i);
  piece(count - Size);
}

template <int Size>
inline void copy_bytes(uint8_t* to, const uint8_t* from, int count) {
  cover<Size>(count, [=](int i) { std::memcpy(to + i, from + i, Size); });
}

template <class S>
struct Adjacent {
  static void copy(uint8_t* to, const uint8_t* from, int count) {
    if (count >= 16) return cover<16>(count, [=](int i) { S::copy(to + i, from + i); });
    if (count >= 8) return copy_bytes<8>(to, from, count);
    if (count >= 4) return copy_bytes<4>(to, from, count);
    if (count >= 2) return copy_bytes<2>(to, from, count);
    *to = *from;
  }
};

template <class S>
struct EverySecond {
  static void copy(uint8_t* to, const uint8_t* from, int count) {
    if (count >= 16) return cover<16>(count, [=](int i) { S::every_second16(to + i, from + 2 * i); });
    if (count >= 8) return cover<8>(count, [=](int i) { S::every_second8(to + i, from + 2 * i); });
    for (int i = 0; i < count; ++i) to[i] = from[2 * i];
  }
};

template <class Copies>
void gather(const Gather8Args& given) {
  const Gather8Args args = given;  // the stores could change what `given` refers to
  uint8_t* row = args.rows;
  for (int64_t channel = args.channel_begin; channel < args.channel_end; ++channel) {
    const uint8_t* const x = args.x + channel * args.channel_step;
    const ByteRun* run = args.runs + args.first[0];
    for (int64_t tap = 0; tap < args.taps; ++tap, row += 64) {
      std::memset(row, args.zero, 64);
      for (const ByteRun* const end = args.runs + args.first[tap + 1]; run != end; ++run) {
        Copies::copy(row + run->to, x + run->source, run->count);
      }
    }
  }
}

template <class S>
void gather_copies(const Gather8Args& args) {
  if (args.step == 1) return gather<Adjacent<S>>(args);
  if (args.step == 2) return gather<EverySecond<S>>(args);
  gather8_scalar(args);
}

}  // namespace
}  // namespace nested_sparse
