// The gates of recurrent layers, element by element:
//
//   LSTM   c = sigmoid(s_f) * c + sigmoid(s_i) * tanh(s_g),   h = sigmoid(s_o) * tanh(c)
//   GRU    r = sigmoid(x_r + s_r),  z = sigmoid(x_z + s_z),  n = tanh(x_n + r * s_n),   h = (1 - z) * n + z * h'
//
// for i in 0 .. count - 1. s is `sums`: the gates lie in torch's order, i f g o and r z n, `stride` floats from the
// first element of one to the first of the next. x lies like it. Errors of sigmoid and tanh are below 4e-7.
#pragma once

#include <cstdint>

#include "../isa.h"

namespace nested_sparse {

struct GateArgs {
  const float* sums;
  const float* x;  // GRU: the input's part; null for an LSTM, whose sums hold it
  int64_t stride;
  const float* previous;  // GRU: h' [count]
  float* cell;            // LSTM: c [count], read and written
  float* hidden;          // h [count]; may be `previous`
  int64_t count;
};
using GateKernel = void (*)(const GateArgs& args);

struct GateLoops {
  Isa isa;
  GateKernel lstm;
  GateKernel gru;
};
// Throws std::invalid_argument where none is built for `isa`.
const GateLoops& find_gates(Isa isa);

}  // namespace nested_sparse
