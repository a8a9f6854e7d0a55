#include "max_pool.h"

#include <algorithm>

#include "pool.h"
#include "raster.h"

namespace nested_sparse {

QuantizedMaxPool::QuantizedMaxPool(const ort::Attributes& attributes)
    : ImageOperator("QuantizedMaxPool"),
      geometry_(read_geometry(attributes, read_spatial(attributes, 3))),
      layout_(read_layout(attributes)) {}

void QuantizedMaxPool::compute(const ort::Context& context) const {
  const QuantizedImage x = read_image(context, 0, "X");
  const Pool pool = pool_over(geometry_, x.size);
  const QuantizedImage y = write_image(context, pool.output(), layout_, x.range);
  for_channels(context, y.size, raster_bytes(x) + raster_bytes(y), [&](int64_t n, int64_t c) {
    const uint8_t* const raster = read_raster(x, n, c, byte_scratch(Purpose::input, raster_bytes(x)));
    uint8_t* const to = byte_scratch(Purpose::output, raster_bytes(y));
    for (int64_t z = 0; z < y.size.depth; ++z) {
      uint8_t* const first = to + z * y.size.height * y.pitch();
      pool.run(slice_of(x, pool.slices(z), raster), x.pitch(), loops_.largest, loops_.largest,
               [&](int64_t row, const uint8_t* joined) {
                 loops_.thin(joined, pool.stride(), pool.computed(), first + row * y.pitch());
               });
    }
    write_raster(y, n, c, to);
  });
}

const uint8_t* QuantizedMaxPool::slice_of(const QuantizedImage& x, Seen slices, const uint8_t* raster) const {
  const int64_t bytes = x.size.height * x.pitch();
  if (slices.taps == 1) return raster + slices.first * bytes;
  uint8_t* const joined = byte_scratch(Purpose::values, bytes + kRasterSlack);
  if (slices.taps == 0) {
    std::fill_n(joined, bytes, uint8_t{0});
  } else {
    loops_.largest({raster + slices.first * bytes, slices.taps, geometry_.dilation[2] * bytes}, bytes, joined);
  }
  return joined;
}

}  // namespace nested_sparse
