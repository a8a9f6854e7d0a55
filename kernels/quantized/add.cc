#include "add.h"

#include "raster.h"

namespace nested_sparse {

void QuantizedAdd::compute(const ort::Context& context) const {
  const QuantizedImage a = read_image(context, 0, "A");
  const QuantizedImage b = read_image(context, 1, "B");
  if (!(a.size == b.size)) fail("B must have A's size " + a.size.text() + ", got " + b.size.text());
  const QuantizedImage y = write_at_level(context, a.size, 2);
  Blend blend = limited_to(y.range);
  blend.a_gain = residual_multiplier(a.range, y.range);
  blend.b_gain = residual_multiplier(b.range, y.range);
  blend.offset = kBlendOne * y.range.zero - blend.a_gain * a.range.zero - blend.b_gain * b.range.zero + kBlendOne / 2;
  for_channels(context, y.size, raster_bytes(a) + raster_bytes(b) + raster_bytes(y),
               [&](int64_t n, int64_t c) { blend_channel(blend, a, b, y, n, c); });
}

}  // namespace nested_sparse
