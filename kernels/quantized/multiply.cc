#include "multiply.h"

#include <algorithm>
#include <cmath>

#include "raster.h"

namespace nested_sparse {
namespace {

int32_t gain_of(double gain) {
  return std::isnan(gain) ? 0 : static_cast<int32_t>(std::clamp(std::rint(gain), -32767.0, 32767.0));
}

}  // namespace

void QuantizedMultiply::compute(const ort::Context& context) const {
  const QuantizedImage x = read_image(context, 0, "X");
  const Image f = read_floats(context, 1, "F");
  const ImageSize one{x.size.batch, x.size.channels, 1, 1};
  if (!(f.size == one)) fail("F must be a factor for each channel " + one.text() + ", got " + f.size.text());
  const QuantizedImage y = write_at_level(context, x.size, 2);
  const Blend limited = limited_to(y.range);
  for_channels(context, y.size, raster_bytes(x) + raster_bytes(y), [&](int64_t n, int64_t c) {
    Blend blend = limited;
    const double factor = f.data[n * x.size.channels + c];
    blend.a_gain = gain_of(kBlendOne * static_cast<double>(x.range.scale) * factor / y.range.scale);
    blend.offset = kBlendOne * y.range.zero - blend.a_gain * x.range.zero + kBlendOne / 2;
    blend_channel(blend, x, x, y, n, c);
  });
}

}  // namespace nested_sparse
