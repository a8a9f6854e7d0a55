// Cuts the columns of a weight into ranges, and finds the blocks of each row group in each range (spmm.h,
// "several calls").
#pragma once

#include <cstdint>

#include "packed.h"

namespace nested_sparse {

// For every level l, row group g in [group_begin, group_end) and i < ranges, writes the index of the group's first
// block whose column is bounds[i] or more to
//
//   starts[(l * (group_end - group_begin) + g - group_begin) * (ranges + 1) + i]
//
// and the end of the group's blocks to entry i = ranges. The columns of a group and the bounds must rise.
void cut_columns(const PackedWeight& weight, int32_t index_bytes, int64_t group_begin, int64_t group_end,
                 const int64_t* bounds, int64_t ranges, uint32_t* starts);

}  // namespace nested_sparse
