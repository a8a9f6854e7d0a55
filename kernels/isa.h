// The instruction set that the kernels use: the forced one, or else the best that the CPU and the operating system
// support.
#pragma once

#include <cstdint>

namespace nested_sparse {

enum class Isa : int32_t { scalar, avx2, avx512, neon };

const char* isa_name(Isa isa);

// True where the CPU has the instructions, the operating system saves their registers, and kernels for them were built.
bool isa_supported(Isa isa);

struct IsaChoice {
  Isa isa;          // undefined where there is an error
  char error[256];  // empty, or: what NESTED_SPARSE_FORCE_ISA holds and what it may hold
};
// The choice, made at the first call. The environment variable NESTED_SPARSE_FORCE_ISA overrides the detection.
const IsaChoice& isa_choice();

}  // namespace nested_sparse
