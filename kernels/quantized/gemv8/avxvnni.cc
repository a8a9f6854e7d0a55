// AVX with VNNI.
#include "vnni.h"

namespace nested_sparse {
namespace {

template <int V>
using BytesOf = VectorOf<V, Bytes4, Bytes8, Twice<Bytes8>>;

}  // namespace

#define NESTED_SPARSE_LIST_AVXVNNI
#include "define_kernels.inc"

}  // namespace nested_sparse
