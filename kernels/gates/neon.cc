#include "loops.h"

namespace nested_sparse {

extern const GateLoops gates_neon = {Isa::neon, lstm, gru};

}  // namespace nested_sparse
