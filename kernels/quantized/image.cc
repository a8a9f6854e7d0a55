#include "image.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

namespace nested_sparse {
namespace {

constexpr uint64_t kMagic = 0x6567616d6938736e;  // "ns8image"
constexpr int64_t kMaxBytes = std::numeric_limits<int32_t>::max();

// The beginning of the tensor. Every field is untrusted.
struct Header {
  uint64_t magic;
  int32_t batch, channels, height, width, border, gap, depth;
  float scale;
  uint8_t zero;
  uint8_t reserved[23];
};
static_assert(sizeof(Header) == 64, "a cache line");

// Places the channels of an image of `size`. False where a size is out of range, or an image takes 2^31 bytes or more.
// Every product is bounded before it is made.
bool place(const ImageSize& size, ImageLayout layout, QuantizedImage& image) {
  const bool in_range = size.batch >= 0 && size.batch <= kMaxBytes && size.channels >= 1 && size.height >= 1 &&
                        size.width >= 1 && size.depth >= 1 && layout.border >= 0 && layout.gap >= 0;
  if (!in_range || size.channels > kMaxBytes || size.width > kMaxBytes) return false;
  if (size.depth > kMaxBytes / size.height) return false;
  image.size = size;
  image.layout = layout;
  if (image.pitch() > kMaxBytes || image.rows() > kMaxBytes / image.pitch()) return false;
  if (layout.border > kMaxBytes / image.pitch()) return false;
  const int64_t border = layout.border * image.pitch();
  image.tiles = (image.positions() + kTileBytes - 1) / kTileBytes;
  image.channel_step = image.planes() ? rounded_up(image.positions() + border) : kTileBytes;
  image.lead = image.planes() ? rounded_up(border + layout.gap) : 0;
  const int64_t channel_bytes = image.planes() ? image.channel_step : image.tiles * kTileBytes;
  if (size.channels > kMaxBytes / channel_bytes) return false;
  image.image_bytes = size.channels * channel_bytes + 2 * image.lead;
  return image.image_bytes <= kMaxBytes;
}

}  // namespace

bool is_scale(float scale) {
  return std::isnormal(scale) && scale > 0;
}

std::vector<ByteRange> read_ranges(const ort::Attributes& attributes, const char* scale, const char* zero,
                                   size_t levels) {
  const std::vector<float> scales = attributes.reals(scale, levels);
  const std::vector<int64_t> zeros = attributes.integers(zero, levels);
  std::vector<ByteRange> ranges;
  for (size_t level = 0; level < levels; ++level) {
    if (!is_scale(scales[level])) {
      throw ort::Error("attribute '" + std::string(scale) + "': expected a normal number above 0 for each level, got " +
                       std::to_string(scales[level]) + " for level " + std::to_string(level));
    }
    if (zeros[level] < 0 || zeros[level] > 255) {
      throw ort::Error("attribute '" + std::string(zero) + "': expected 0 to 255, got " + std::to_string(zeros[level]) +
                       " for level " + std::to_string(level));
    }
    ranges.push_back(ByteRange{scales[level], static_cast<uint8_t>(zeros[level])});
  }
  return ranges;
}

ImageLayout read_layout(const ort::Attributes& attributes) {
  constexpr int64_t kMost = 1 << 12;
  const auto read = [&](const char* name) {
    const int64_t value = attributes.integer(name);
    if (value >= 0 && value <= kMost) return static_cast<int32_t>(value);
    throw ort::Error("attribute '" + std::string(name) + "': expected 0 to " + std::to_string(kMost) + ", got " +
                     std::to_string(value));
  };
  return ImageLayout{read("y_border"), read("y_gap")};
}

QuantizedImage QuantizedImage::read(const ort::Tensor<const uint8_t>& tensor) {
  Header header{};
  const int64_t bytes = tensor.shape.rank == 1 ? tensor.shape.elements() : 0;
  if (bytes >= static_cast<int64_t>(sizeof header)) std::memcpy(&header, tensor.data, sizeof header);
  if (header.magic != kMagic) {
    throw ort::Error("must be an image of this library's int8 operators, got a tensor of shape " + tensor.shape.text() +
                     "; export the model again");
  }
  const ImageSize size{header.batch, header.channels, header.height, header.width, header.depth};
  QuantizedImage image;
  if (!place(size, ImageLayout{header.border, header.gap}, image) ||
      bytes != static_cast<int64_t>(sizeof header) + size.batch * image.image_bytes) {
    throw ort::Error("holds " + std::to_string(bytes) + " bytes, its header says an image of " + size.text() +
                     ", border " + std::to_string(header.border) + " and gap " + std::to_string(header.gap));
  }
  if (!is_scale(header.scale)) {
    throw ort::Error("must have a scale that is a normal number above 0, its header says " +
                     std::to_string(header.scale));
  }
  image.range = ByteRange{header.scale, header.zero};
  image.data = tensor.data + sizeof header;
  return image;
}

QuantizedImage QuantizedImage::placed(const ImageSize& size, ImageLayout layout) {
  QuantizedImage image;
  if (!place(size, layout, image)) throw ort::Error("an image of " + size.text() + " has 2^31 bytes or more");
  return image;
}

QuantizedImage QuantizedImage::write(const ort::Context& context, const ImageSize& size, ImageLayout layout,
                                     ByteRange range) {
  QuantizedImage image = placed(size, layout);
  const Header header{kMagic,
                      static_cast<int32_t>(size.batch),
                      static_cast<int32_t>(size.channels),
                      static_cast<int32_t>(size.height),
                      static_cast<int32_t>(size.width),
                      layout.border,
                      layout.gap,
                      static_cast<int32_t>(size.depth),
                      range.scale,
                      range.zero,
                      {}};
  const auto bytes = static_cast<int64_t>(sizeof header) + size.batch * image.image_bytes;
  auto* const memory = context.output<uint8_t>(ort::Shape{1, {bytes}});
  std::memcpy(memory, &header, sizeof header);
  image.range = range;
  image.data = memory + sizeof header;
  return image;
}

int32_t QuantizedImage::tile_width(int64_t tile) const {
  const int64_t left = positions() - tile * kTileBytes;
  return left <= 16 ? 16 : left <= 32 ? 32 : 64;
}

uint64_t QuantizedImage::keep(int64_t tile) const {
  uint64_t mask = 0;
  const int64_t end = std::min((tile + 1) * kTileBytes, positions());
  for (int64_t position = tile * kTileBytes; position < end; ++position) {
    const bool pixel = position % pitch() < size.width;
    mask |= uint64_t{pixel} << (position % kTileBytes);
  }
  return mask;
}

void QuantizedImage::write_border(int64_t n, int64_t begin, int64_t end) const {
  if (!planes()) return;
  const int64_t written = (tiles - 1) * kTileBytes + tile_width(tiles - 1);
  uint8_t* const first = out(n, 0);
  if (begin == 0) std::memset(first - lead, range.zero, static_cast<size_t>(lead));
  for (int64_t channel = begin; channel < end; ++channel) {
    std::memset(first + channel * channel_step + written, range.zero, static_cast<size_t>(channel_step - written));
  }
  if (end == size.channels) std::memset(first + end * channel_step, range.zero, static_cast<size_t>(lead));
}

}  // namespace nested_sparse
