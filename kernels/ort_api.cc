#include "ort_api.h"

namespace nested_sparse::ort {
namespace {

template <class Function>
bool read(const OrtApi* table, int index, Function*& function) {
  function = reinterpret_cast<Function*>(table->slot[index]);
  return function != nullptr;
}

}  // namespace

bool Api::load(const OrtApi* table, uint32_t newest) {
  if (newest >= kShapeVersion) read(table, 414, shape);
  return read(table, 0, create_status) && read(table, 2, error_message) && read(table, 26, create_domain) &&
         read(table, 27, domain_add) && read(table, 28, add_domain) && read(table, 51, tensor_data) &&
         read(table, 61, dimension_count) && read(table, 62, dimensions) && read(table, 65, tensor_info) &&
         read(table, 85, attribute_float) && read(table, 86, attribute_int) && read(table, 87, attribute_string) &&
         read(table, 88, input_count) && read(table, 90, input) && read(table, 91, output) &&
         read(table, 93, release_status) && read(table, 99, release_tensor_info) &&
         read(table, 162, attribute_floats) && read(table, 163, attribute_ints) && read(table, 274, parallel_for);
}

}  // namespace nested_sparse::ort
