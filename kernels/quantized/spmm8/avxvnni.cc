// AVX2 with AVX-VNNI: 16 registers hold the sums of two rows.
#include "vnni.h"

namespace nested_sparse {
namespace {

template <int V, class Args>
void run(const Args& args, int64_t group_begin, int64_t group_end) {
  if (args.pixels % 32 == 0) return run_tile<InLanes<Ymm, Vnni<Ymm>, 2>, V>(args, group_begin, group_end);
  return run_tile<InLanes<Xmm, Vnni<Xmm>, 2>, V>(args, group_begin, group_end);
}

}  // namespace

#define NESTED_SPARSE_LIST_AVXVNNI
#define SPMM8_KERNEL(isa, dot, symbol, sums_symbol, block_rows) NESTED_SPARSE_SPMM8(symbol, sums_symbol, block_rows)
#include "../kernels.inc"

}  // namespace nested_sparse
