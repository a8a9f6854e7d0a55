#include "average_pool.h"

#include "raster.h"

namespace nested_sparse {

constexpr int64_t kMaxTaps = 1 << 23;  // of a window: its sum fits into 31 bits

QuantizedAveragePool::QuantizedAveragePool(const ort::Attributes& attributes)
    : ImageOperator("QuantizedAveragePool"),
      geometry_(read_geometry(attributes)),
      layout_(read_layout(attributes)),
      counts_padding_(read_choice(attributes, "count_include_pad", 0, 1, 0) == 1) {
  if (geometry_.kernel[0] * geometry_.kernel[1] > kMaxTaps) fail("the window has more than 2^23 taps");
}

void QuantizedAveragePool::compute(const ort::Context& context) const {
  const QuantizedImage x = read_image(context, 0, "X");
  if (x.size.depth != 1) fail("X must have one slice, got " + x.size.text());
  const Pool pool = pool_over(geometry_, x.size);
  const QuantizedImage y = write_image(context, pool.output(), layout_, x.range);
  for_channels(context, y.size, raster_bytes(x) + raster_bytes(y), [&](int64_t n, int64_t c) {
    const uint8_t* const raster = read_raster(x, n, c, byte_scratch(Purpose::input, raster_bytes(x)));
    uint8_t* const to = byte_scratch(Purpose::output, raster_bytes(y));
    auto* const columns = reinterpret_cast<int32_t*>(byte_scratch(Purpose::starts, pool.computed() * 4));
    for (int64_t i = 0; i < pool.computed(); ++i) columns[i] = static_cast<int32_t>(pool.columns(i).taps);
    Means means{nullptr, pool.stride(), columns, 0, pool.taps(), counts_padding_, x.range.zero};
    pool.run(raster, x.pitch(), loops_.sum_bytes, loops_.sum, [&](int64_t row, const uint32_t* joined) {
      means.sums = joined;
      means.rows = pool.rows(row).taps;
      loops_.mean(means, pool.computed(), to + row * y.pitch());
    });
    write_raster(y, n, c, to);
  });
}

}  // namespace nested_sparse
