// The C interface of library.py and guarded_run.py: which instruction set and kernels are in use, guarded runs, and for
// tests one kernel on raw arrays and one operator of a guarded run.
#include "denormals.h"
#include "exported.h"
#include "isa.h"
#include "kernels.h"
#include "linear.h"
#include "quantized/gemv8/gemv8.h"
#include "quantized/kernels.h"
#include "quantized/linear.h"
#include "route.h"
#include "scratch.h"

namespace nested_sparse {
namespace {

void run_spmm(const KernelInfo& kernel, const KernelCall& call) {
  kernel.spmm({call.weight, call.x, call.x_pitch, call.pixels, call.residual, call.y_pitch, call.y, call.y_pitch,
               call.y_whole, call.clip},
              call.group_begin, call.group_end);
}

// Line `index` of the list of kernels that multiply int8 weights by vectors.
bool gemv8_row(int32_t index, KernelRow* row) {
  int32_t count = 0;
  const Gemv8Info* kernels = gemv8_list(&count);
  if (index >= count) return false;
  const Gemv8Info& kernel = kernels[index];
  *row = KernelRow{
      kernel.name, "linear", isa_name(kernel.isa, kernel.dot),     kernel.block_rows, 0, sizeof(uint16_t), "int8",
      0,           0,        isa_supported(kernel.isa, kernel.dot)};
  return true;
}

// Line `index` of the list of kernels of int8 weights.
bool quantized_kernel_row(int32_t index, KernelRow* row) {
  int32_t count = 0;
  const QuantizedKernel* kernels = quantized_kernel_list(&count);
  if (index >= count) return gemv8_row(index - count, row);
  const QuantizedKernel& kernel = kernels[index];
  *row = KernelRow{
      kernel.name, "conv",      isa_name(kernel.isa, kernel.dot),     kernel.block_rows, 0, sizeof(uint16_t), "int8",
      1,           kTilePixels, isa_supported(kernel.isa, kernel.dot)};
  return true;
}

// The name of the kernel that runs a layer of int8 weights, on `rows` vectors if it is linear. floats: the vectors are
// not quantised.
const char* int8_kernel(bool linear, bool floats, int32_t block_rows, int64_t rows) {
  const IsaChoice& isa = isa_choice();
  const bool tiles = rows >= (floats ? kWidenFrom : tile_from(block_rows));
  if (linear && !tiles) return (floats ? find_float_gemv8(isa, block_rows) : find_gemv8(isa, block_rows)).name;
  if (!floats) return find_spmm8(isa, block_rows).name;
  return find_spmm(isa.isa, {block_rows, 0, sizeof(uint16_t), ValueType::float32}).name;
}

// Null where the list of kernels of int8 weights has no such line, which is numbered after the other kernels, or this
// CPU does not support it.
const QuantizedKernel* usable_quantized_kernel(int32_t index) {
  int32_t floats = 0;
  int32_t count = 0;
  kernel_list(&floats);
  const QuantizedKernel* kernels = quantized_kernel_list(&count);
  if (index < floats || index - floats >= count) return nullptr;
  const QuantizedKernel& kernel = kernels[index - floats];
  return isa_supported(kernel.isa, kernel.dot) ? &kernel : nullptr;
}

// The same for the kernels that multiply int8 weights by vectors, which follow.
const Gemv8Info* usable_gemv8(int32_t index) {
  int32_t floats = 0;
  int32_t pixels = 0;
  int32_t count = 0;
  kernel_list(&floats);
  quantized_kernel_list(&pixels);
  const Gemv8Info* kernels = gemv8_list(&count);
  const int64_t at = int64_t{index} - floats - pixels;
  if (at < 0 || at >= count) return nullptr;
  return isa_supported(kernels[at].isa, kernels[at].dot) ? kernels + at : nullptr;
}

}  // namespace
}  // namespace nested_sparse

using nested_sparse::KernelCall;
using nested_sparse::KernelRow;

// The name of the instruction set in use, for kernels of int8 weights or of others. Null where the forced one cannot be
// used; `error` then says why.
NESTED_SPARSE_EXPORT const char* nested_sparse_isa(bool int8, const char** error) {
  const nested_sparse::IsaChoice& choice = nested_sparse::isa_choice();
  *error = choice.error;
  return choice.error[0] == '\0' ? nested_sparse::isa_name(choice.isa, int8 && choice.dot) : nullptr;
}

NESTED_SPARSE_EXPORT int64_t nested_sparse_scratch_allocations() {
  return nested_sparse::scratch_allocations();
}

// From this many rows on, a linear layer runs the kernel of convolutions; a recurrent one from as many sequences.
NESTED_SPARSE_EXPORT int64_t nested_sparse_transpose_from(int32_t block_rows, int32_t banks) {
  return nested_sparse::transpose_from(block_rows, banks);
}

// The name of the kernel in use for a layer of int8 weights; null where there is none for such blocks.
NESTED_SPARSE_EXPORT const char* nested_sparse_int8_kernel(bool linear, bool floats, int32_t block_rows, int64_t rows) {
  try {
    return nested_sparse::int8_kernel(linear, floats, block_rows, rows);
  } catch (const std::exception&) {
    return nullptr;
  }
}

// Fills `row` with line `index` of the lists of kernels: that of floats, then that of int8 weights. False where they
// have no such line.
NESTED_SPARSE_EXPORT bool nested_sparse_kernel(int32_t index, KernelRow* row) {
  int32_t count = 0;
  const nested_sparse::KernelInfo* kernels = nested_sparse::kernel_list(&count);
  if (index < 0) return false;
  if (index >= count) return nested_sparse::quantized_kernel_row(index - count, row);
  const nested_sparse::KernelInfo& kernel = kernels[index];
  *row = KernelRow{kernel.name,
                   kernel.gemv != nullptr ? "linear" : "conv",
                   nested_sparse::isa_name(kernel.isa),
                   kernel.weight.block_rows,
                   kernel.weight.banks,
                   kernel.weight.index_bytes,
                   nested_sparse::info_of(kernel.weight.value_type).name,
                   kernel.vectors,
                   kernel.lanes,
                   nested_sparse::isa_supported(kernel.isa)};
  return true;
}

// Runs kernel `index` of the list. The arrays are not checked. False where the list has no such kernel, or this CPU
// does not support it.
NESTED_SPARSE_EXPORT bool nested_sparse_run_kernel(int32_t index, const KernelCall* call) {
  int32_t count = 0;
  const nested_sparse::KernelInfo* kernels = nested_sparse::kernel_list(&count);
  if (index < 0 || index >= count || !nested_sparse::isa_supported(kernels[index].isa)) return false;
  if (kernels[index].gemv == nullptr) {
    nested_sparse::run_spmm(kernels[index], *call);
    return true;
  }
  kernels[index].gemv(
      {call->weight, call->x, call->residual, call->y, call->clip, call->pixels, call->x_pitch, call->y_pitch},
      call->group_begin, call->group_end);
  return true;
}

// The same for the kernels of int8 weights.
NESTED_SPARSE_EXPORT bool nested_sparse_run_spmm8(int32_t index, const nested_sparse::Spmm8Args* args, int64_t begin,
                                                  int64_t end) {
  const nested_sparse::QuantizedKernel* kernel = nested_sparse::usable_quantized_kernel(index);
  if (kernel == nullptr) return false;
  kernel->spmm(*args, begin, end);
  return true;
}

NESTED_SPARSE_EXPORT bool nested_sparse_run_sums8(int32_t index, const nested_sparse::Sums8Args* args, int64_t begin,
                                                  int64_t end) {
  const nested_sparse::QuantizedKernel* kernel = nested_sparse::usable_quantized_kernel(index);
  if (kernel == nullptr) return false;
  kernel->sums(*args, begin, end);
  return true;
}

// The same for vectors of bytes and of floats; false where the kernel does not take such vectors.
NESTED_SPARSE_EXPORT bool nested_sparse_run_gemv8(int32_t index, const nested_sparse::Gemv8Args* args, int64_t begin,
                                                  int64_t end) {
  const nested_sparse::Gemv8Info* kernel = nested_sparse::usable_gemv8(index);
  if (kernel == nullptr || kernel->bytes == nullptr) return false;
  kernel->bytes(*args, begin, end);
  return true;
}

NESTED_SPARSE_EXPORT bool nested_sparse_run_float_gemv8(int32_t index, const nested_sparse::Gemv8FloatArgs* args,
                                                        int64_t begin, int64_t end) {
  const nested_sparse::Gemv8Info* kernel = nested_sparse::usable_gemv8(index);
  if (kernel == nullptr || kernel->floats == nullptr) return false;
  kernel->floats(*args, begin, end);
  return true;
}

// Runs the gather kernel of the instruction set of kernel `index`.
NESTED_SPARSE_EXPORT bool nested_sparse_run_gather8(int32_t index, const nested_sparse::Gather8Args* args) {
  const nested_sparse::QuantizedKernel* kernel = nested_sparse::usable_quantized_kernel(index);
  if (kernel == nullptr) return false;
  nested_sparse::find_gather8(kernel->isa)(*args);
  return true;
}

// Makes `run` the guarded run of this thread, null ends it; false where the thread has another.
NESTED_SPARSE_EXPORT bool nested_sparse_guard_this_thread(nested_sparse::GuardedRun* run) {
  return nested_sparse::guard_this_thread(run);
}

// Denormal numbers count as zero on this thread from now on. Returns the thread's control as it was before, for
// nested_sparse_set_float_control.
NESTED_SPARSE_EXPORT uint64_t nested_sparse_flush_denormals() {
  return nested_sparse::flush_denormals();
}

NESTED_SPARSE_EXPORT void nested_sparse_set_float_control(uint64_t control) {
  nested_sparse::set_float_control(control);
}

// The level of the run's next operator, if it started at `now_ns` (route.h).
NESTED_SPARSE_EXPORT int64_t nested_sparse_arrive_at(nested_sparse::GuardedRun* run, int64_t now_ns) {
  return nested_sparse::arrive_at(*run, "", now_ns);
}

NESTED_SPARSE_EXPORT int64_t nested_sparse_monotonic_ns() {
  return nested_sparse::monotonic_ns();
}
