// for_squares: the elements of a matrix in an order that suits a transposition.
#pragma once

#include <algorithm>
#include <cstdint>

namespace nested_sparse {

// Calls move(r, c) for every element of a matrix, square by square. A square fits into L1, whether rows
// or columns are contiguous.
template <class Move>
inline void for_squares(int64_t rows, int64_t columns, const Move& move) {
  constexpr int64_t kSquare = 16;
  for (int64_t r0 = 0; r0 < rows; r0 += kSquare) {
    for (int64_t c0 = 0; c0 < columns; c0 += kSquare) {
      for (int64_t c = c0; c < std::min(columns, c0 + kSquare); ++c) {
        for (int64_t r = r0; r < std::min(rows, r0 + kSquare); ++r) move(r, c);
      }
    }
  }
}

inline int64_t round_up(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

}  // namespace nested_sparse
