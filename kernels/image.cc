#include "image.h"

#include <cstring>
#include <limits>

namespace nested_sparse {
namespace {

constexpr int64_t kMagic = 0x64656c69742d736e;  // "ns-tiled"
constexpr int64_t kMaxFloats = std::numeric_limits<int32_t>::max();

// The beginning of a tiled image, before its first tile. It fills one cache line, so that tiles stay aligned.
struct Header {
  int64_t magic, batch, channels, height, width, depth;
  int32_t lanes, tile_vectors;
  int64_t reserved;
};
constexpr int64_t kHeaderFloats = sizeof(Header) / sizeof(float);
static_assert(kHeaderFloats == 16, "a cache line");

Image image_of(const float* data, const ImageSize& size, bool tiled, TileShape shape) {
  return Image{data, size, Tiling(size.pixels(), shape.lanes, shape.vectors), tiled};
}

// Whether images of the header's sizes take exactly `floats` floats. The header is untrusted, so every product is
// bounded before it is made.
bool holds_images(const Header& header, TileShape shape, int64_t floats) {
  if (header.batch < 0 || header.channels < 1) return false;
  int64_t pixels = 1;
  for (const int64_t size : {header.height, header.width, header.depth}) {
    if (size < 1 || size > kMaxFloats / pixels) return false;
    pixels *= size;
  }
  const Tiling tiling(pixels, shape.lanes, shape.vectors);
  if (header.channels > kMaxFloats / tiling.floats(1)) return false;
  const int64_t image = tiling.floats(header.channels);
  return floats % image == 0 && floats / image == header.batch;
}

Image read_tiled(const ort::Tensor<const float>& tensor, TileShape shape) {
  Header header{};
  const bool has_header = tensor.shape.rank == 1 && tensor.shape.elements() >= kHeaderFloats;
  if (has_header) std::memcpy(&header, tensor.data, sizeof header);
  if (header.magic != kMagic || header.lanes != shape.lanes || header.tile_vectors != shape.vectors) {
    throw ort::Error("must be a tiled image of this library's convolutions, got a tensor of shape " +
                     tensor.shape.text() + "; export the model again");
  }
  const ImageSize size{header.batch, header.channels, header.height, header.width, header.depth};
  if (!holds_images(header, shape, tensor.shape.elements() - kHeaderFloats)) {
    throw ort::Error("holds " + std::to_string(tensor.shape.elements()) + " floats, its header says an image of " +
                     size.text());
  }
  return image_of(tensor.data + kHeaderFloats, size, true, shape);
}

}  // namespace

std::string ImageSize::text() const {
  const std::string slices = depth == 1 ? "" : std::to_string(depth) + ", ";
  return "[" + std::to_string(batch) + ", " + std::to_string(channels) + ", " + slices + std::to_string(height) + ", " +
         std::to_string(width) + "]";
}

Image Image::read(const ort::Tensor<const float>& tensor, bool tiled, TileShape shape) {
  if (tiled) return read_tiled(tensor, shape);
  const auto& sizes = tensor.shape.size;
  const size_t rank = tensor.shape.rank;
  if (rank < 3 || rank > 5) {
    throw ort::Error("must be [N, C, W], [N, C, H, W] or [N, C, D, H, W], got " + tensor.shape.text());
  }
  const int64_t height = rank == 3 ? 1 : sizes[rank - 2];
  return image_of(tensor.data, {sizes[0], sizes[1], height, sizes[rank - 1], rank == 5 ? sizes[2] : 1}, false, shape);
}

Image Image::write(const ort::Context& context, const ImageSize& size, bool tiled, TileShape shape, int64_t spatial) {
  Image image = image_of(nullptr, size, tiled, shape);
  if (image.tiling.vectors * image.tiling.lanes > kMaxFloats / size.channels) {
    throw ort::Error("an image of " + size.text() + " has more than 2^31 values");
  }
  if (!tiled) {
    const ort::Shape line{3, {size.batch, size.channels, size.width}};
    const ort::Shape plane{4, {size.batch, size.channels, size.height, size.width}};
    const ort::Shape volume{5, {size.batch, size.channels, size.depth, size.height, size.width}};
    image.data = context.output(spatial == 1 ? line : spatial == 2 ? plane : volume);
    return image;
  }
  const Header header{kMagic,        size.batch, size.channels, size.height, size.width, size.depth, shape.lanes,
                      shape.vectors, 0};
  float* const memory = context.output(ort::Shape{1, {kHeaderFloats + size.batch * image.image_floats()}});
  std::memcpy(memory, &header, sizeof header);
  image.data = memory + kHeaderFloats;
  return image;
}

}  // namespace nested_sparse
