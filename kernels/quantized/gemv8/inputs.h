// Inputs: what x holds at the four columns of a quad, as the vector types of each instruction set take it. For rows.h.
#pragma once

#include <cstdint>
#include <cstring>

namespace nested_sparse {
namespace {

// One load for four columns: with a load for each, V = 16 in L2 takes 7 % longer.
inline uint64_t columns_at(const uint16_t* col) {
  uint64_t columns = 0;
  std::memcpy(&columns, col, sizeof columns);
  return columns;
}

// Four bytes; that of the first column is the lowest.
inline uint32_t bytes_at(const uint8_t* x, const uint16_t* col) {
  const uint64_t columns = columns_at(col);
  return x[columns & 0xffff] | uint32_t{x[columns >> 16 & 0xffff]} << 8 | uint32_t{x[columns >> 32 & 0xffff]} << 16 |
         uint32_t{x[columns >> 48]} << 24;
}

// The same bytes as two pairs of 16-bit numbers: those of columns 0 and 2, and those of columns 1 and 3.
struct Pairs {
  uint32_t even;
  uint32_t odd;
};

inline Pairs pairs_at(const uint8_t* x, const uint16_t* col) {
  const uint64_t columns = columns_at(col);
  return {x[columns & 0xffff] | uint32_t{x[columns >> 32 & 0xffff]} << 16,
          x[columns >> 16 & 0xffff] | uint32_t{x[columns >> 48]} << 16};
}

// Floats stay where they are: kernels broadcast them one by one.
struct Floats {
  const float* x;
  uint64_t columns;
  const float* at(int i) const { return x + (columns >> 16 * i & 0xffff); }
};

inline Floats floats_at(const float* x, const uint16_t* col) {
  return {x, columns_at(col)};
}

}  // namespace
}  // namespace nested_sparse
