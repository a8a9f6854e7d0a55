#include "loops.h"

namespace nested_sparse {

extern const GateLoops gates_scalar = {Isa::scalar, lstm, gru};

}  // namespace nested_sparse
