// Attention of one head: y = softmax(scale q k^T + mask) v, for some of its queries.
//
// The strips are written once (loops.h), with vectors of the compiler, and compiled with the flags of each instruction
// set. A query whose keys are all closed, each score minus infinity, gets zeros. A NaN in a score makes its row NaN.
#pragma once

#include <cstdint>

#include "../isa.h"

namespace nested_sparse {

// One head. All pitches count floats, from one position to the next.
struct HeadArgs {
  const float* q;  // [queries, width]
  const float* k;  // [keys, width]
  const float* v;  // [keys, value_width rounded up to whole vectors]
  float* y;        // [queries, value_width]
  int64_t q_pitch;
  int64_t k_pitch;
  int64_t v_pitch;
  int64_t y_pitch;
  int64_t keys;
  int64_t width;
  int64_t value_width;
  float scale;
  bool causal;        // query i sees the keys 0 .. i
  const float* mask;  // [queries, keys], added to the scores; null: none
  int64_t mask_pitch;
  int64_t mask_step;  // from one key to the next, 0 or 1

  // Where several queries read the same keys: these transposed, in panels. Panel p holds, for each of `width`, the
  // values of the keys p panel .. (p + 1) panel - 1, zeros where there are no such keys. Null: none.
  const float* panels;
  float* scores;  // room for `strip` rows of the keys of all panels
};

// Computes the queries begin .. end - 1.
using HeadKernel = void (*)(const HeadArgs& args, int64_t begin, int64_t end);

struct HeadLoops {
  Isa isa;
  HeadKernel packed;  // with panels
  HeadKernel single;  // without, for few queries: each is a product with the keys as they lie
  int32_t lanes;      // floats of a vector
  int32_t panel;      // keys of a panel
  int32_t strip;      // queries that are computed together
};
// Throws std::invalid_argument where none is built for `isa`.
const HeadLoops& find_attention(Isa isa);

}  // namespace nested_sparse
