#include "dequantize.h"

#include "raster.h"

namespace nested_sparse {

DequantizeImage::DequantizeImage(const ort::Attributes& attributes)
    : ImageOperator("DequantizeImage"), spatial_(read_spatial(attributes, 3)) {}

void DequantizeImage::compute(const ort::Context& context) const {
  const QuantizedImage x = read_image(context, 0, "X");
  const int64_t pixels = x.size.pixels();
  float* const y = write_floats(context, x.size, spatial_);
  for_channels(context, x.size, raster_bytes(x) + pixels * 4, [&](int64_t n, int64_t c) {
    const uint8_t* const from = read_raster(x, n, c, byte_scratch(Purpose::input, raster_bytes(x)));
    float* const to = y + (n * x.size.channels + c) * pixels;
    for (int64_t row = 0; row < x.rows(); ++row) {
      const uint8_t* const pixel = from + row * x.pitch();
      loops_.dequantise(pixel, x.size.width, x.range.scale, x.range.zero, to + row * x.size.width);
    }
  });
}

}  // namespace nested_sparse
