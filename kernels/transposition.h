// transpose: the rows of a matrix become columns, four by four floats at a time. And round_up.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

namespace nested_sparse {

inline int64_t round_up(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

// A vector that every target of the compiler has, in registers or not.
using Floats4 = float __attribute__((vector_size(16)));

// Elements i, j of a, then i, j of b.
template <int i, int j>
inline Floats4 pairs(Floats4 a, Floats4 b) {
#if defined(__clang__)
  return __builtin_shufflevector(a, b, i, j, 4 + i, 4 + j);
#else
  using Ints4 = int32_t __attribute__((vector_size(16)));
  return __builtin_shuffle(a, b, Ints4{i, j, 4 + i, 4 + j});
#endif
}

inline void transpose_square(Floats4 (&rows)[4]) {
  const Floats4 even[] = {pairs<0, 2>(rows[0], rows[1]), pairs<0, 2>(rows[2], rows[3])};
  const Floats4 odd[] = {pairs<1, 3>(rows[0], rows[1]), pairs<1, 3>(rows[2], rows[3])};
  rows[0] = pairs<0, 2>(even[0], even[1]);
  rows[1] = pairs<0, 2>(odd[0], odd[1]);
  rows[2] = pairs<1, 3>(even[0], even[1]);
  rows[3] = pairs<1, 3>(odd[0], odd[1]);
}

// The first `count` floats, at most 4, with zeros behind them.
inline Floats4 load_floats(const float* from, int64_t count) {
  Floats4 values{};
  if (count == 4) {
    std::memcpy(&values, from, sizeof values);
  } else {
    for (int64_t i = 0; i < count; ++i) values[i] = from[i];
  }
  return values;
}

inline void store_floats(float* to, int64_t count, Floats4 values) {
  if (count == 4) {
    std::memcpy(to, &values, sizeof values);
  } else {
    for (int64_t i = 0; i < count; ++i) to[i] = values[i];
  }
}

// Four by four elements, or what is left of them: `from` is that of row r and column c. It is compiled once for whole
// squares, which then stay in registers.
template <class Store>
inline __attribute__((always_inline)) void transpose_square(const float* from, int64_t pitch, int64_t r, int64_t c,
                                                            int64_t height, int64_t width, const Store& store) {
  Floats4 rows[4]{};
#pragma GCC unroll 4
  for (int64_t i = 0; i < height; ++i) rows[i] = load_floats(from + i * pitch, width);
  transpose_square(rows);
#pragma GCC unroll 4
  for (int64_t i = 0; i < width; ++i) store(c + i, r, height, rows[i]);
}

// Calls store(c, r, count, values) for the elements of a matrix, whose rows lie `pitch` floats apart: rows r to r +
// count - 1 of column c, at most 4, with zeros behind them. It goes square by square of 16 by 16, which fits into L1
// whether rows or columns are contiguous.
template <class Store>
inline void transpose(const float* from, int64_t pitch, int64_t rows, int64_t columns, const Store& store) {
  constexpr int64_t kSquare = 16;
  for (int64_t r0 = 0; r0 < rows; r0 += kSquare) {
    for (int64_t c0 = 0; c0 < columns; c0 += kSquare) {
      for (int64_t c = c0; c < std::min(columns, c0 + kSquare); c += 4) {
        for (int64_t r = r0; r < std::min(rows, r0 + kSquare); r += 4) {
          const float* const at = from + r * pitch + c;
          if (r + 4 <= rows && c + 4 <= columns) {
            transpose_square(at, pitch, r, c, 4, 4, store);
          } else {
            const int64_t height = std::min<int64_t>(rows - r, 4);
            const int64_t width = std::min<int64_t>(columns - c, 4);
            transpose_square(at, pitch, r, c, height, width, store);
          }
        }
      }
    }
  }
}

}  // namespace nested_sparse
