// Transposition of bytes: rows of a linear layer's input become the pixels of a tile, as convolutions read it.
#pragma once

#include <cstdint>
#include <cstring>

#include "image.h"

namespace nested_sparse {

// Swaps, in pairs of words, the bits of `high` in one word with those of `low` in the next: one of the three steps in
// which eight words of eight bytes are transposed.
inline void swap_bytes(uint64_t& a, uint64_t& b, int shift, uint64_t low) {
  const uint64_t changed = (a >> shift ^ b) & low;
  a ^= changed << shift;
  b ^= changed;
}

// Columns [begin, begin + 8) of eight rows to eight rows of a tile. from[i]: row i, or null for zeros.
inline void transpose_square(const uint8_t* const (&from)[8], int64_t begin, uint8_t* to) {
  static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the first byte of a word is its lowest");
  uint64_t words[8] = {};
  for (int i = 0; i < 8; ++i) {
    if (from[i] != nullptr) std::memcpy(&words[i], from[i] + begin, 8);
  }
  for (int i = 0; i < 4; ++i) swap_bytes(words[i], words[i + 4], 32, 0x00000000ffffffff);
  for (int i : {0, 1, 4, 5}) swap_bytes(words[i], words[i + 2], 16, 0x0000ffff0000ffff);
  for (int i : {0, 2, 4, 6}) swap_bytes(words[i], words[i + 1], 8, 0x00ff00ff00ff00ff);
  for (int i = 0; i < 8; ++i) std::memcpy(to + (begin + i) * kTileBytes, &words[i], 8);
}

// Columns [begin, end), multiples of 8, of `count` rows, `pitch` bytes apart, to [columns][64]; zeros for the rows up
// to `pixels`, a multiple of 8.
inline void transpose_bytes(const uint8_t* rows, int64_t count, int64_t pitch, int64_t begin, int64_t end,
                            int64_t pixels, uint8_t* to) {
  for (int64_t first = 0; first < pixels; first += 8) {
    const uint8_t* from[8];
    for (int64_t i = 0; i < 8; ++i) from[i] = first + i < count ? rows + (first + i) * pitch : nullptr;
    for (int64_t column = begin; column < end; column += 8) transpose_square(from, column, to + first);
  }
}

}  // namespace nested_sparse
