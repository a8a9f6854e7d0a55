#include "quantize.h"

#include "raster.h"

namespace nested_sparse {

void QuantizeImage::compute(const ort::Context& context) const {
  const Image x = read_floats(context, 0, "X");
  const QuantizedImage y = write_at_level(context, x.size, 1);
  const int64_t pixels = x.size.pixels();
  for_channels(context, x.size, pixels * 4 + raster_bytes(y), [&](int64_t n, int64_t c) {
    const float* const from = x.data + (n * x.size.channels + c) * pixels;
    uint8_t* const to = byte_scratch(Purpose::output, raster_bytes(y));
    for (int64_t row = 0; row < y.rows(); ++row) {
      loops_.quantise(from + row * x.size.width, x.size.width, y.range.scale, y.range.zero, to + row * y.pitch());
    }
    write_raster(y, n, c, to);
  });
}

}  // namespace nested_sparse
