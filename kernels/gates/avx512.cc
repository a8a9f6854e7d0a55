#include "loops.h"

namespace nested_sparse {

extern const GateLoops gates_avx512 = {Isa::avx512, lstm, gru};

}  // namespace nested_sparse
