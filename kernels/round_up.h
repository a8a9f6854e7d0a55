// round_up: the least multiple that is not below a value.
#pragma once

#include <cstdint>

namespace nested_sparse {

inline int64_t round_up(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

}  // namespace nested_sparse
