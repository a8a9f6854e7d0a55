#include "max_pool.h"

#include "pool.h"
#include "raster.h"

namespace nested_sparse {

QuantizedMaxPool::QuantizedMaxPool(const ort::Attributes& attributes)
    : ImageOperator("QuantizedMaxPool"), geometry_(read_geometry(attributes)), layout_(read_layout(attributes)) {}

void QuantizedMaxPool::compute(const ort::Context& context) const {
  const QuantizedImage x = read_image(context, 0, "X");
  const Pool pool = pool_over(geometry_, x.size);
  const QuantizedImage y = write_image(context, pool.output(), layout_, x.range);
  for_channels(context, y.size, raster_bytes(x) + raster_bytes(y), [&](int64_t n, int64_t c) {
    const uint8_t* const raster = read_raster(x, n, c, byte_scratch(Purpose::input, raster_bytes(x)));
    uint8_t* const to = byte_scratch(Purpose::output, raster_bytes(y));
    pool.run(raster, x.pitch(), loops_.largest, loops_.largest, [&](int64_t row, const uint8_t* joined) {
      loops_.thin(joined, pool.stride(), pool.computed(), to + row * y.pitch());
    });
    write_raster(y, n, c, to);
  });
}

}  // namespace nested_sparse
