// Raster: the positions of one channel of an image, in order, in one stretch of memory. Planes hold them so; those of
// tiles are copied. The operators beside convolutions work on rasters, so that each of them is written once.
#pragma once

#include "image.h"

namespace nested_sparse {

// Bytes of a raster: its last tile is padded.
inline int64_t raster_bytes(const QuantizedImage& image) {
  return image.tiles * kTileBytes;
}

// The raster of channel c of image n; in `buffer`, which has raster_bytes() bytes, where it is copied. A row and the 63
// bytes behind it may be read where `buffer` has 64 bytes more.
const uint8_t* read_raster(const QuantizedImage& image, int64_t n, int64_t c, uint8_t* buffer);

// Where an operator writes the raster of a channel of an image that QuantizedImage::write made: the plane itself, or
// `buffer`. It writes all pixels; then `finish_raster` writes the rest of the channel, and copies it to its tiles.
uint8_t* begin_raster(const QuantizedImage& image, int64_t n, int64_t c, uint8_t* buffer);
void finish_raster(const QuantizedImage& image, int64_t n, int64_t c, uint8_t* raster);

}  // namespace nested_sparse
