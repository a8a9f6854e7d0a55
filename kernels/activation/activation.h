// Activations: element-wise functions that follow a layer, applied to its outputs while they are in the cache; and the
// scale, shift and clip of a norm on its own.
//
// The functions are plain loops (loops.h), compiled with the flags of each instruction set; compilers vectorise them
// well. Against the exact values, the error is below 2e-7 of the larger of |y| and |x|. A NaN stays NaN.
#pragma once

#include <cstdint>

#include "../packed.h"

namespace nested_sparse {

// In the order of the node attribute `activation` (FORMAT.md). With s(x) = 1 / (1 + exp(-x)) and P(x) the share of a
// normal distribution below x:
enum class Activation : int32_t {
  none,
  sigmoid,       // s(x)
  silu,          // x s(x)
  quick_gelu,    // x s(1.702 x)
  gelu,          // x P(x)
  gelu_tanh,     // x s(2 sqrt(2 / pi) (x + 0.044715 x^3))
  hard_sigmoid,  // min(max(x / 6 + 1 / 2, 0), 1)
  hard_swish,    // x min(max(x / 6 + 1 / 2, 0), 1)
};
constexpr int32_t kActivations = 8;

// y[i] = the function of y[i], for i in 0 .. count - 1. No alignment is assumed.
using ActivateKernel = void (*)(Activation activation, int64_t count, float* y);

// y[i] = clip(x[i] scale + shift), for i in 0 .. count - 1. `x` may be `y`.
using ScaleKernel = void (*)(int64_t count, const float* x, float scale, float shift, Clip bounds, float* y);

}  // namespace nested_sparse
