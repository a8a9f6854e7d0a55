#include "global_average_pool.h"

#include <cstring>

#include "raster.h"

namespace nested_sparse {

QuantizedGlobalAveragePool::QuantizedGlobalAveragePool(const ort::Attributes& attributes)
    : ImageOperator("QuantizedGlobalAveragePool"), spatial_(read_spatial(attributes, 3)) {}

void QuantizedGlobalAveragePool::compute(const ort::Context& context) const {
  const QuantizedImage x = read_image(context, 0, "X");
  const ImageSize one{x.size.batch, x.size.channels, 1, 1};
  float* const y = write_floats(context, one, spatial_);
  const auto pixels = static_cast<double>(x.size.pixels());
  const double scale = x.range.scale;
  const int64_t zeros = x.size.pixels() * x.range.zero;
  uint8_t* const mask = byte_scratch(Purpose::matrix, raster_bytes(x));
  std::memset(mask, 0, static_cast<size_t>(raster_bytes(x)));
  for (int64_t row = 0; row < x.rows(); ++row) {
    std::memset(mask + row * x.pitch(), 0xff, static_cast<size_t>(x.size.width));
  }
  const int64_t step = x.planes() ? kTileBytes : x.size.channels * kTileBytes;
  for_channels(context, x.size, raster_bytes(x), [&](int64_t n, int64_t c) {
    const int64_t sum = loops_.masked_sum(x.at(n, 0) + c * x.channel_step, step, mask, x.tiles);
    y[n * x.size.channels + c] = static_cast<float>(scale * static_cast<double>(sum - zeros) / pixels);
  });
}

}  // namespace nested_sparse
