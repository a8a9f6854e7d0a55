// The parts that the operators beside convolutions share: they read and write images of bytes, and have no weights.
#pragma once

#include "../operator.h"
#include "../scratch.h"
#include "epilogue.h"
#include "image.h"
#include "pixels8/pixels8.h"
#include "pool.h"

namespace nested_sparse {

class ImageOperator : public Operator {
 protected:
  explicit ImageOperator(const char* name);
  [[noreturn]] void fail(const std::string& message) const;
  // An image of bytes, or of floats, in an input that messages call `name`. Throws ort::Error.
  QuantizedImage read_image(const ort::Context& context, size_t index, const char* name) const;
  Image read_floats(const ort::Context& context, size_t index, const char* name) const;
  // Y, whose size an operator has computed from its inputs. Throws ort::Error.
  QuantizedImage write_image(const ort::Context& context, const ImageSize& size, ImageLayout layout,
                             ByteRange range) const;

  // Y in float32: [N, C, D, H, W], [N, C, H, W] or [N, C, W], by its spatial dimensions. Throws ort::Error where one
  // that is missing is not 1.
  float* write_floats(const ort::Context& context, const ImageSize& size, int64_t spatial) const;
  // Throws ort::Error where the window does not fit into the padded image.
  Pool pool_over(const ConvGeometry& geometry, const ImageSize& x) const;

  // Calls body(n, c) for each channel of each image, in parallel. bytes: read and written for a channel.
  template <class Body>
  static void for_channels(const ort::Context& context, const ImageSize& size, int64_t bytes, const Body& body) {
    constexpr double kGrain = 1 << 17;  // bytes of a task, which take about 10 µs
    const int64_t channels = size.batch * size.channels;
    const int64_t tasks = task_count(channels, static_cast<double>(channels) * static_cast<double>(bytes), kGrain);
    context.parallel_for(tasks, [&](int64_t task) {
      const Part part = part_of(channels, tasks, task);
      for (int64_t i = part.begin; i < part.end; ++i) body(i / size.channels, i % size.channels);
    });
  }

  const char* name_;
  const PixelLoops& loops_;
};

// An operator whose output has a range of its own for each level.
class RangedOperator : public ImageOperator {
 protected:
  RangedOperator(const char* name, const ort::Attributes& attributes);
  // Y at the level of this run. Throws ort::Error.
  QuantizedImage write_at_level(const ort::Context& context, const ImageSize& size, size_t level_input) const;

 private:
  std::vector<ByteRange> ranges_;  // of each level
  ImageLayout layout_;
};

}  // namespace nested_sparse
