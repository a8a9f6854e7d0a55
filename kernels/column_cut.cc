#include "column_cut.h"

#include <algorithm>

namespace nested_sparse {
namespace {

template <class Index>
void cut_group(const PackedLevel& level, int64_t group, const int64_t* bounds, int64_t ranges, uint32_t* starts) {
  const auto* const columns = static_cast<const Index*>(level.col);
  const Index* at = columns + level.ptr[group];
  const Index* const end = columns + level.ptr[group + 1];
  for (int64_t i = 0; i <= ranges; ++i) {
    at = i == ranges ? end : std::lower_bound(at, end, bounds[i]);
    starts[i] = static_cast<uint32_t>(at - columns);
  }
}

}  // namespace

void cut_columns(const PackedWeight& weight, int32_t index_bytes, int64_t group_begin, int64_t group_end,
                 const int64_t* bounds, int64_t ranges, uint32_t* starts) {
  for (int32_t l = 0; l < weight.level_count; ++l) {
    for (int64_t group = group_begin; group < group_end; ++group, starts += ranges + 1) {
      if (index_bytes == 2) {
        cut_group<uint16_t>(weight.levels[l], group, bounds, ranges, starts);
      } else {
        cut_group<uint32_t>(weight.levels[l], group, bounds, ranges, starts);
      }
    }
  }
}

}  // namespace nested_sparse
