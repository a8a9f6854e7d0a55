// The instruction set that the kernels use: the forced one, or else the best that the CPU and the operating system
// support.
#pragma once

#include <cstdint>

namespace nested_sparse {

enum class Isa : int32_t { scalar, avx2, avx512, neon };

// dot: with the instructions that add products of four bytes to a sum, which only kernels of int8 weights use:
// "avxvnni", "avx512vnni" and "neondot" are avx2, avx512 and neon with them.
const char* isa_name(Isa isa, bool dot = false);

// True where the CPU has the instructions, the operating system saves their registers, and kernels for them were built.
bool isa_supported(Isa isa, bool dot = false);

// True where the CPU has AVX512_VBMI, whose byte permutations look up tables. Only for kernels of avx512.
bool has_vbmi();

struct IsaChoice {
  Isa isa;  // undefined where there is an error
  bool dot;
  char error[256];  // empty, or: what NESTED_SPARSE_FORCE_ISA holds and what it may hold
};
// The choice, made at the first call. The environment variable NESTED_SPARSE_FORCE_ISA overrides the detection.
const IsaChoice& isa_choice();

}  // namespace nested_sparse
