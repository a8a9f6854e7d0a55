// The types in which a weight's values are stored. Kernels compute in float32 with values of float types; int8 values
// have kernels of their own (quantized/).
//
// A new type needs: an enumerator, a row of kValueTypes and a StoredAs here; an entry in nested_sparse/value_type.py;
// its kernels in kernels.inc, and for spmm a line in spmm/values.h.
#pragma once

#include <cstdint>

namespace nested_sparse {

enum class ValueType : int32_t { float32, float16, int8 };

struct ValueTypeInfo {
  ValueType type;
  const char* name;  // as the Python side and its users write it
  int32_t nbytes;    // of a value; the node attribute value_bytes, by which a file names the type
};

// One row for each type, in the order of ValueType.
inline constexpr ValueTypeInfo kValueTypes[] = {
    {ValueType::float32, "float32", 4},
    {ValueType::float16, "float16", 2},
    {ValueType::int8, "int8", 1},
};

constexpr const ValueTypeInfo& info_of(ValueType type) {
  return kValueTypes[static_cast<int32_t>(type)];
}

// The C++ type of a stored value, as kernels read it.
template <ValueType>
struct StoredAs;
template <>
struct StoredAs<ValueType::float32> {
  using Type = float;
};
template <>
struct StoredAs<ValueType::float16> {
  using Type = uint16_t;  // the bits of an IEEE float16 (half.h)
};
template <>
struct StoredAs<ValueType::int8> {
  using Type = int8_t;
};
template <ValueType T>
using Stored = typename StoredAs<T>::Type;

}  // namespace nested_sparse
