// Working memory of the operators: one buffer for each thread and purpose. A buffer grows when needed and is kept until
// its thread ends, so a run like an earlier one allocates nothing.
#pragma once

#include <cstdint>

namespace nested_sparse {

// How often memory for scratch or plans was allocated since the library was loaded.
int64_t scratch_allocations();
// Adds one to that count.
void count_scratch_allocation();

enum class Purpose { input, output, matrix, sums, starts, values, byte_matrix, quads, cells, parts, normed };
constexpr int kPurposes = 11;

// A convolution finds what it gathered (`matrix`, `byte_matrix`) again at its next task, so no other operator uses
// these.
//
// Memory for at least `floats` floats, aligned to 64 bytes, with undefined contents. It belongs to this thread until
// the thread's next call for the same purpose. Throws std::bad_alloc.
float* scratch(Purpose purpose, int64_t floats);

// The same, for at least `bytes` bytes.
inline uint8_t* byte_scratch(Purpose purpose, int64_t bytes) {
  return reinterpret_cast<uint8_t*>(scratch(purpose, (bytes + 3) / 4));
}

}  // namespace nested_sparse
