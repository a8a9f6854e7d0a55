// The layout of every struct that Python mirrors (structs.py), by which library.py refuses a library of another
// version.
#include <cstddef>
#include <string>

#include "exported.h"
#include "quantized/gemv8/gemv8.h"
#include "quantized/kernels.h"
#include "route.h"

namespace nested_sparse {
namespace {

// A struct that Python mirrors (structs.py), or one of its fields.
struct Place {
  const char* name;
  size_t offset;
  size_t bytes;
};

// clang-format off
#define STRUCT(type) {#type, 0, sizeof(type)},
#define FIELD(type, field) {#type "." #field, offsetof(type, field), sizeof(type::field)},
constexpr Place kPlaces[] = {
    STRUCT(KernelRow)
    FIELD(KernelRow, name)
    FIELD(KernelRow, op)
    FIELD(KernelRow, isa)
    FIELD(KernelRow, block_rows)
    FIELD(KernelRow, banks)
    FIELD(KernelRow, index_bytes)
    FIELD(KernelRow, value_type)
    FIELD(KernelRow, vectors)
    FIELD(KernelRow, lanes)
    FIELD(KernelRow, supported)
    STRUCT(PackedLevel)
    FIELD(PackedLevel, ptr)
    FIELD(PackedLevel, col)
    FIELD(PackedLevel, val)
    STRUCT(PackedWeight)
    FIELD(PackedWeight, levels)
    FIELD(PackedWeight, level_count)
    FIELD(PackedWeight, scale)
    FIELD(PackedWeight, shift)
    FIELD(PackedWeight, perm)
    FIELD(PackedWeight, rows)
    FIELD(PackedWeight, per_row)
    FIELD(PackedWeight, columns)
    FIELD(PackedWeight, part_bits)
    STRUCT(Clip)
    FIELD(Clip, lo)
    FIELD(Clip, hi)
    STRUCT(KernelCall)
    FIELD(KernelCall, weight)
    FIELD(KernelCall, x)
    FIELD(KernelCall, residual)
    FIELD(KernelCall, y)
    FIELD(KernelCall, clip)
    FIELD(KernelCall, group_begin)
    FIELD(KernelCall, group_end)
    FIELD(KernelCall, x_pitch)
    FIELD(KernelCall, pixels)
    FIELD(KernelCall, y_pitch)
    FIELD(KernelCall, y_whole)
    STRUCT(QuadLevel)
    FIELD(QuadLevel, ptr)
    FIELD(QuadLevel, col)
    FIELD(QuadLevel, val)
    STRUCT(Spmm8Args)
    FIELD(Spmm8Args, levels)
    FIELD(Spmm8Args, level_count)
    FIELD(Spmm8Args, x)
    FIELD(Spmm8Args, offsets)
    FIELD(Spmm8Args, x_group_step)
    FIELD(Spmm8Args, bias)
    FIELD(Spmm8Args, shift)
    FIELD(Spmm8Args, multiplier)
    FIELD(Spmm8Args, perm)
    FIELD(Spmm8Args, rows)
    FIELD(Spmm8Args, residual)
    FIELD(Spmm8Args, residual_pitch)
    FIELD(Spmm8Args, residual_multiplier)
    FIELD(Spmm8Args, table)
    FIELD(Spmm8Args, lo)
    FIELD(Spmm8Args, hi)
    FIELD(Spmm8Args, y)
    FIELD(Spmm8Args, y_pitch)
    FIELD(Spmm8Args, keep)
    FIELD(Spmm8Args, pad)
    FIELD(Spmm8Args, masked)
    FIELD(Spmm8Args, pixels)
    FIELD(Spmm8Args, shared_quads)
    STRUCT(Sums8Args)
    FIELD(Sums8Args, levels)
    FIELD(Sums8Args, level_count)
    FIELD(Sums8Args, x)
    FIELD(Sums8Args, offsets)
    FIELD(Sums8Args, sums)
    FIELD(Sums8Args, sums_pitch)
    FIELD(Sums8Args, pixels)
    STRUCT(Gemv8Args)
    FIELD(Gemv8Args, levels)
    FIELD(Gemv8Args, level_count)
    FIELD(Gemv8Args, x)
    FIELD(Gemv8Args, x_zero)
    FIELD(Gemv8Args, row_sums)
    FIELD(Gemv8Args, sums)
    STRUCT(Gemv8FloatArgs)
    FIELD(Gemv8FloatArgs, levels)
    FIELD(Gemv8FloatArgs, level_count)
    FIELD(Gemv8FloatArgs, x)
    FIELD(Gemv8FloatArgs, sums)
    STRUCT(ByteRun)
    FIELD(ByteRun, source)
    FIELD(ByteRun, to)
    FIELD(ByteRun, count)
    STRUCT(Gather8Args)
    FIELD(Gather8Args, x)
    FIELD(Gather8Args, channel_begin)
    FIELD(Gather8Args, channel_end)
    FIELD(Gather8Args, channel_step)
    FIELD(Gather8Args, runs)
    FIELD(Gather8Args, first)
    FIELD(Gather8Args, taps)
    FIELD(Gather8Args, step)
    FIELD(Gather8Args, zero)
    FIELD(Gather8Args, rows)
    STRUCT(Seen)
    FIELD(Seen, elapsed_ms)
    FIELD(Seen, done_ms)
    STRUCT(GuardedRun)
    FIELD(GuardedRun, level)
    FIELD(GuardedRun, level_ms)
    FIELD(GuardedRun, remaining_share)
    FIELD(GuardedRun, order)
    FIELD(GuardedRun, started_ns)
    FIELD(GuardedRun, layers)
    FIELD(GuardedRun, capacity)
    FIELD(GuardedRun, level_count)
    FIELD(GuardedRun, operator_count)
    FIELD(GuardedRun, lowest_level)
    FIELD(GuardedRun, forced_at)
    FIELD(GuardedRun, forced_level)
    FIELD(GuardedRun, begun_ns)
    FIELD(GuardedRun, budget_ms)
    FIELD(GuardedRun, slowdown)
    FIELD(GuardedRun, least_accuracy)
    FIELD(GuardedRun, margin)
    FIELD(GuardedRun, position)
    FIELD(GuardedRun, lowered_at)
    FIELD(GuardedRun, lowered_from)
    FIELD(GuardedRun, share_left)
    FIELD(GuardedRun, done_ms)
    FIELD(GuardedRun, seen)
    FIELD(GuardedRun, last)
};
#undef FIELD
#undef STRUCT
// clang-format on

std::string struct_layout() {
  std::string lines;
  for (const Place& each : kPlaces) {
    lines += std::string(each.name) + ' ' + std::to_string(each.offset) + ' ' + std::to_string(each.bytes) + '\n';
  }
  return lines;
}

}  // namespace
}  // namespace nested_sparse

// Every struct that Python mirrors, and its fields: lines of name, byte offset and bytes.
NESTED_SPARSE_EXPORT const char* nested_sparse_struct_layout() {
  static const std::string text = nested_sparse::struct_layout();
  return text.c_str();
}
