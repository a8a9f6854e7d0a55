// AVX-512 (F, DQ, BW, VL) with VNNI.
#include "vnni.h"

namespace nested_sparse {
namespace {

template <int V, class Args>
void run(const Args& args, int64_t group_begin, int64_t group_end) {
  if (args.pixels == 64) return run_tile<InLanes<Zmm, Vnni<Zmm>, 4>, V>(args, group_begin, group_end);
  if (args.pixels == 32) return run_tile<InLanes<Ymm, Vnni<Ymm>, 4>, V>(args, group_begin, group_end);
  return run_tile<InLanes<Xmm, Vnni<Xmm>, 4>, V>(args, group_begin, group_end);
}

}  // namespace

#define NESTED_SPARSE_LIST_AVX512VNNI
#define SPMM8_KERNEL(isa, dot, symbol, sums_symbol, block_rows) NESTED_SPARSE_SPMM8(symbol, sums_symbol, block_rows)
#include "../kernels.inc"

}  // namespace nested_sparse
