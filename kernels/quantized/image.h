// QuantizedImage: a batch of images of bytes, as it travels between our int8 operators. It is a uint8 tensor of one
// dimension: a header of 64 bytes, then the pixels. The layout is the same on every instruction set.
//
// Pixel (y, x) has position y * pitch + x, with pitch = width + gap: `gap` columns follow each row. The rows of a
// volume's slices follow one another: y is z * height + y. Positions are cut into tiles of 64; the last tile is padded.
// One image lies after the other.
//
// Tiles, where border is 0: tile after tile, and in a tile channel after channel, 64 bytes each. Bytes that are no
// pixel may have any value.
//
// Planes, where border is above 0: channel after channel, each a plane of `channel_step` bytes that begins with its
// positions in order. `lead` bytes lie before the first plane and after the last. Every byte that is no pixel is the
// zero point. So each pixel has `border` rows of zero points above and below its image and `gap` columns on its left
// and right, and a window that keeps within them needs no gathering: the pixels under a tap are one stretch of bytes.
#pragma once

#include "../image.h"
#include "../ort_context.h"

namespace nested_sparse {

// The meaning of a byte: scale * (byte - zero).
struct ByteRange {
  float scale;
  uint8_t zero;
  bool operator==(const ByteRange& other) const { return scale == other.scale && zero == other.zero; }
};

// Whether `scale` is a normal number above 0. Others are no scale: kernels treat subnormal numbers as zero.
bool is_scale(float scale);

// One range for each level, from a node's attributes, e.g. "y_scale" and "y_zero". Throws ort::Error where there are
// not `levels` of them, or one is out of range.
std::vector<ByteRange> read_ranges(const ort::Attributes& attributes, const char* scale, const char* zero,
                                   size_t levels);

constexpr int64_t kTileBytes = 64;
// The count rounded up to whole tiles.
constexpr int64_t rounded_up(int64_t count) {
  return (count + kTileBytes - 1) / kTileBytes * kTileBytes;
}

struct ImageLayout {
  int32_t border = 0;
  int32_t gap = 0;
  bool operator==(const ImageLayout& other) const { return border == other.border && gap == other.gap; }
};

// From the attributes y_border and y_gap. Throws ort::Error where one is out of range.
ImageLayout read_layout(const ort::Attributes& attributes);

struct QuantizedImage {
  // Where the bytes of such an image lie, without any. Throws ort::Error where a size is out of range, or an image
  // would take 2^31 bytes or more.
  static QuantizedImage placed(const ImageSize& size, ImageLayout layout);
  // The image in an input tensor of an operator. Throws ort::Error where the tensor holds none.
  static QuantizedImage read(const ort::Tensor<const uint8_t>& tensor);
  // An image in new memory for the operator's output, whose header is written. Throws ort::Error as `placed`. The
  // operator writes the pixels (`keep` says which bytes of a tile they are), and `write_border` the rest.
  static QuantizedImage write(const ort::Context& context, const ImageSize& size, ImageLayout layout, ByteRange range);

  bool planes() const { return layout.border > 0; }
  int64_t pitch() const { return size.width + layout.gap; }
  int64_t rows() const { return size.depth * size.height; }  // of all slices
  int64_t positions() const { return rows() * pitch(); }
  // Bytes of a tile that operators read and write: 64, or 16 or 32 in the last tile where that is enough.
  int32_t tile_width(int64_t tile) const;
  // The byte of channel 0 at the first position of a tile of image n.
  const uint8_t* at(int64_t n, int64_t tile) const {
    return data + n * image_bytes + lead + tile * kTileBytes * (planes() ? 1 : size.channels);
  }
  // The same, in an image that `write` made.
  uint8_t* out(int64_t n, int64_t tile) const { return const_cast<uint8_t*>(at(n, tile)); }
  // Bit i is set where position i of a tile is a pixel.
  uint64_t keep(int64_t tile) const;
  // Sets to the zero point what no tile of channels [begin, end) of image n writes. Nothing to do without a border.
  void write_border(int64_t n, int64_t begin, int64_t end) const;

  const uint8_t* data = nullptr;  // after the header
  ImageSize size{};
  ImageLayout layout;
  ByteRange range{};
  int64_t tiles = 0;         // of an image
  int64_t channel_step = 0;  // bytes from one channel to the next
  int64_t lead = 0;          // bytes before the first channel; 0 without a border
  int64_t image_bytes = 0;
};

}  // namespace nested_sparse
