// AVX2 with FMA.
#include "avx2.h"

namespace nested_sparse {
namespace {

template <int V>
using BytesOf = VectorOf<V, Bytes4, Bytes8, Twice<Bytes8>>;
template <int V>
using FloatsOf = VectorOf<V, Floats4, Floats8, Twice<Floats8>>;

}  // namespace

#define NESTED_SPARSE_LIST_AVX2
#include "define_kernels.inc"

}  // namespace nested_sparse
