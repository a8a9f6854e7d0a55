// Working memory of the operators: one growing buffer per thread and purpose, kept until the thread ends, so that a run
// that has been seen before allocates nothing.
#pragma once

#include <cstdint>

namespace nested_sparse {

// How often operator memory (scratch or plans) was allocated since load.
int64_t scratch_allocations();
void count_scratch_allocation();

enum class Purpose { input, output, matrix, sums, starts, values };
constexpr int kPurposes = 6;

// At least `floats` floats, 64-byte aligned, with whatever they held before; this thread's until its next call for the
// same purpose. Throws std::bad_alloc.
float* scratch(Purpose purpose, int64_t floats);

}  // namespace nested_sparse
