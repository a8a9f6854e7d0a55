#include "loops.h"

namespace nested_sparse {

extern const GateLoops gates_avx2 = {Isa::avx2, lstm, gru};

}  // namespace nested_sparse
