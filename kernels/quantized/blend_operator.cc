#include "blend_operator.h"

#include "raster.h"

namespace nested_sparse {

BlendOperator::BlendOperator(const char* name, const ort::Attributes& attributes)
    : RangedOperator(name, attributes), clip_{attributes.real("clip_min"), attributes.real("clip_max")} {}

Blend BlendOperator::limited_to(ByteRange range) const {
  const ByteLimits limits = limits_of(clip_, range);
  return Blend{0, 0, 0, limits.lo, limits.hi};
}

void BlendOperator::blend_channel(const Blend& blend, const QuantizedImage& a, const QuantizedImage& b,
                                  const QuantizedImage& y, int64_t n, int64_t c) const {
  const uint8_t* const from = read_raster(a, n, c, byte_scratch(Purpose::input, raster_bytes(a)));
  const uint8_t* other = from;
  if (b.data != a.data) other = read_raster(b, n, c, byte_scratch(Purpose::matrix, raster_bytes(b)));
  uint8_t* const to = byte_scratch(Purpose::output, raster_bytes(y));
  if (a.pitch() == y.pitch() && b.pitch() == y.pitch()) {
    loops_.blend(from, other, rounded_up(y.positions()), blend, to);
  } else {
    for (int64_t row = 0; row < y.rows(); ++row) {
      loops_.blend(from + row * a.pitch(), other + row * b.pitch(), y.size.width, blend, to + row * y.pitch());
    }
  }
  write_raster(y, n, c, to);
}

}  // namespace nested_sparse
