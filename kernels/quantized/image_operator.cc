#include "image_operator.h"

namespace nested_sparse {

ImageOperator::ImageOperator(const char* name) : name_(name), loops_(find_pixel_loops(isa_choice().isa)) {}

void ImageOperator::fail(const std::string& message) const {
  throw ort::Error(std::string(name_) + ": " + message);
}

QuantizedImage ImageOperator::read_image(const ort::Context& context, size_t index, const char* name) const {
  try {
    return QuantizedImage::read(context.input<uint8_t>(index));
  } catch (const ort::Error& error) {
    fail(std::string(name) + " " + error.what());
  }
}

Image ImageOperator::read_floats(const ort::Context& context, size_t index, const char* name) const {
  try {
    return Image::read(context.input<float>(index), false, TileShape{1, 1});
  } catch (const ort::Error& error) {
    fail(std::string(name) + " " + error.what());
  }
}

QuantizedImage ImageOperator::write_image(const ort::Context& context, const ImageSize& size, ImageLayout layout,
                                          ByteRange range) const {
  try {
    return QuantizedImage::write(context, size, layout, range);
  } catch (const ort::Error& error) {
    fail(std::string("Y: ") + error.what());
  }
}

float* ImageOperator::write_floats(const ort::Context& context, const ImageSize& size, int64_t spatial) const {
  if (spatial == 3) {
    return context.output(ort::Shape{5, {size.batch, size.channels, size.depth, size.height, size.width}});
  }
  if (size.depth != 1) fail("without three spatial dimensions X must have one slice, got " + size.text());
  if (spatial == 2) return context.output(ort::Shape{4, {size.batch, size.channels, size.height, size.width}});
  if (size.height != 1) fail("with one spatial dimension X must have one row, got " + size.text());
  return context.output(ort::Shape{3, {size.batch, size.channels, size.width}});
}

Pool ImageOperator::pool_over(const ConvGeometry& geometry, const ImageSize& x) const {
  try {
    return Pool(geometry, x);
  } catch (const ort::Error& error) {
    fail(error.what());
  }
}

RangedOperator::RangedOperator(const char* name, const ort::Attributes& attributes)
    : ImageOperator(name),
      ranges_(read_ranges(attributes, "y_scale", "y_zero", attributes.integers("y_zero").size())),
      layout_(read_layout(attributes)) {
  if (ranges_.empty()) fail("attribute 'y_zero': expected an entry for each level, got none");
}

QuantizedImage RangedOperator::write_at_level(const ort::Context& context, const ImageSize& size,
                                              size_t level_input) const {
  const auto cell = context.input<int64_t>(level_input);
  if (cell.data == nullptr || cell.shape.elements() != 1) fail("level must be one int64");
  // Another thread, or the run's own guard (route.h), may lower the level while the graph runs.
  const int64_t level = __atomic_load_n(cell.data, __ATOMIC_RELAXED);
  if (level < 0 || level >= static_cast<int64_t>(ranges_.size())) {
    fail("level must be 0 to " + std::to_string(static_cast<int64_t>(ranges_.size()) - 1) + ", got " +
         std::to_string(level));
  }
  return write_image(context, size, layout_, ranges_[static_cast<size_t>(level)]);
}

}  // namespace nested_sparse
