#include "raster.h"

#include <cstring>

namespace nested_sparse {

const uint8_t* read_raster(const QuantizedImage& image, int64_t n, int64_t c, uint8_t* buffer) {
  const uint8_t* first = image.at(n, 0) + c * image.channel_step;
  if (image.planes()) return first;  // the rows below it, or the bytes behind the last plane, are the slack
  const int64_t step = image.size.channels * kTileBytes;
  for (int64_t tile = 0; tile < image.tiles; ++tile) {
    std::memcpy(buffer + tile * kTileBytes, first + tile * step, kTileBytes);
  }
  return buffer;
}

void write_raster(const QuantizedImage& image, int64_t n, int64_t c, uint8_t* raster) {
  uint8_t* const first = image.out(n, 0) + c * image.channel_step;
  if (!image.planes()) {
    const int64_t step = image.size.channels * kTileBytes;
    for (int64_t tile = 0; tile < image.tiles; ++tile) {
      std::memcpy(first + tile * step, raster + tile * kTileBytes, kTileBytes);
    }
    return;
  }
  const auto bytes = static_cast<size_t>(image.tiles * kTileBytes);
  const auto gap = static_cast<size_t>(image.layout.gap);
  for (int64_t row = 0; row < image.rows(); ++row) {
    std::memset(raster + row * image.pitch() + image.size.width, image.range.zero, gap);
  }
  std::memset(raster + image.positions(), image.range.zero, bytes - static_cast<size_t>(image.positions()));
  std::memcpy(first, raster, bytes);
  image.write_border(n, c, c + 1);
}

}  // namespace nested_sparse
