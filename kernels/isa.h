// Which instruction set the kernels use: the best one this CPU and its operating system support, or the forced one.
#pragma once

#include <cstdint>

namespace nested_sparse {

enum class Isa : int32_t { scalar, avx2, avx512, neon };

const char* isa_name(Isa isa);

// True where the CPU has the instructions, the operating system saves their registers, and kernels for them were built.
bool isa_supported(Isa isa);

// The choice, made once. NESTED_SPARSE_FORCE_ISA overrides the detection. `error` is empty where the choice is valid;
// otherwise it says what the variable holds and what it may hold, and `isa` is not to be used.
struct IsaChoice {
  Isa isa;
  char error[256];
};
const IsaChoice& isa_choice();

}  // namespace nested_sparse
