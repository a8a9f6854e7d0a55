// Raster: the positions of one channel of an image, in order, in one stretch of memory. Planes hold them so; those of
// tiles are copied. The operators beside convolutions work on rasters, so that each of them is written once.
#pragma once

#include "image.h"

namespace nested_sparse {

// Bytes that a loop may read or write behind the last position of a buffer for a raster.
constexpr int64_t kRasterSlack = 64;

// Bytes of a buffer for a raster.
inline int64_t raster_bytes(const QuantizedImage& image) {
  return image.tiles * kTileBytes + kRasterSlack;
}

// The raster of channel c of image n, which lies in `buffer` where it had to be copied. kRasterSlack bytes behind its
// last tile may be read, but hold anything, as do all bytes that are no pixel.
const uint8_t* read_raster(const QuantizedImage& image, int64_t n, int64_t c, uint8_t* buffer);

// Writes channel c of image n, in an image that QuantizedImage::write made. Changes bytes of `raster` that are no
// pixel.
void write_raster(const QuantizedImage& image, int64_t n, int64_t c, uint8_t* raster);

}  // namespace nested_sparse
