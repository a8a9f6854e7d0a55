// Where the blocks of each row group lie when the columns are cut into ranges of one size (spmm.h, "several calls").
#pragma once

#include <cstdint>

#include "packed.h"

namespace nested_sparse {

// Fills starts[(l * (group_end - group_begin) + g - group_begin) * (ranges + 1) + i], for every level l and row group g
// in [group_begin, group_end), with the first block of the group whose column is i * width or more; i = ranges gives
// the group's end. Columns rise within a group.
void cut_columns(const PackedWeight& weight, int32_t index_bytes, int64_t group_begin, int64_t group_end, int64_t width,
                 int64_t ranges, uint32_t* starts);

}  // namespace nested_sparse
