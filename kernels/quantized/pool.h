// Pool: how a window moves over the raster of one slice of one channel, for maxima and means alike.
//
// A window is separable: first its rows are joined, then the columns of the result. Joined rows are lines of elements
// T, with as many zeros on the left as there is padding, and zeros on the right up to the end of the line. Lines are
// made for a band of output rows at a time, which stays in L1, and all of their columns are joined in one call.
#pragma once

#include <algorithm>
#include <cstring>

#include "../conv_plan.h"
#include "../scratch.h"
#include "image.h"
#include "pixels8/pixels8.h"

namespace nested_sparse {

// The taps of an axis at which one output sees the image, and the pixel under the first of them.
struct Seen {
  int64_t taps, first;
};

class Pool {
 public:
  // Throws ort::Error where the window does not fit into the padded image.
  Pool(const ConvGeometry& geometry, const ImageSize& x)
      : geometry_(geometry),
        size_{x.height, x.width, x.depth},
        y_{x.batch, x.channels, output_size(geometry, 0, x.height), output_size(geometry, 1, x.width),
           output_size(geometry, 2, x.depth)},
        copied_(rounded_up(x.width)),
        behind_((geometry.kernel[1] - 1) * geometry.dilation[1]),
        line_(std::max(geometry.pad_before[1] + copied_, (y_.width - 1) * geometry.stride[1] + behind_ + 1)) {}

  const ImageSize& output() const { return y_; }
  int64_t taps() const { return geometry_.kernel[0] * geometry_.kernel[1]; }
  Seen rows(int64_t y) const { return seen(0, y); }
  Seen columns(int64_t x) const { return seen(1, x); }
  Seen slices(int64_t z) const { return seen(2, z); }
  int64_t stride() const { return geometry_.stride[1]; }
  // Outputs of a row to compute: at least the width. Vector loops are faster without a rest.
  int64_t computed() const { return stride() <= kFastStride ? rounded_up(y_.width) : y_.width; }

  // Calls finish(y, joined) for each row of a slice of outputs; output x < computed() is joined[x * stride()]. raster:
  // a slice of a channel, whose rows are `pitch` bytes apart.
  template <class T, class Finish>
  void run(const uint8_t* raster, int64_t pitch, void (*join_rows)(const Taps<uint8_t>&, int64_t, T*),
           void (*join_columns)(const Taps<T>&, int64_t, T*), const Finish& finish) const {
    constexpr int64_t kBandBytes = 12288;
    const int64_t band = std::clamp<int64_t>(kBandBytes / (line_ * int64_t{sizeof(T)}), 1, y_.height);
    T* const lines = memory<T>(Purpose::matrix, band * line_ + behind_);
    T* const joined = memory<T>(Purpose::sums, band * line_ + kFastStride * kTileBytes);
    std::fill_n(lines, band * line_ + behind_, T{0});
    for (int64_t begin = 0; begin < y_.height; begin += band) {
      const int64_t end = std::min(begin + band, y_.height);
      for (int64_t y = begin; y < end; ++y) {
        T* const line = lines + (y - begin) * line_ + geometry_.pad_before[1];
        const Seen seen = rows(y);
        if (seen.taps > 0) {
          join_rows({raster + seen.first * pitch, seen.taps, geometry_.dilation[0] * pitch}, copied_, line);
        }
        std::fill(line + (seen.taps > 0 ? size_[1] : 0), line + copied_, T{0});
      }
      join_columns({lines, geometry_.kernel[1], geometry_.dilation[1]}, (end - begin) * line_, joined);
      for (int64_t y = begin; y < end; ++y) finish(y, joined + (y - begin) * line_);
    }
  }

 private:
  static constexpr int64_t kFastStride = 2;

  template <class T>
  static T* memory(Purpose purpose, int64_t count) {
    return reinterpret_cast<T*>(byte_scratch(purpose, count * int64_t{sizeof(T)}));
  }

  // Divides only where the window leaves the image.
  Seen seen(int axis, int64_t output) const {
    const int64_t dilation = geometry_.dilation[axis];
    const int64_t start = output * geometry_.stride[axis] - geometry_.pad_before[axis];
    const int64_t first = start < 0 ? (dilation - 1 - start) / dilation : 0;
    const int64_t left = std::max(size_[axis] - start, int64_t{0});  // pixels from the first tap to the image's end
    const bool inside = left > (geometry_.kernel[axis] - 1) * dilation;
    const int64_t end = inside ? geometry_.kernel[axis] : (left + dilation - 1) / dilation;
    return {std::max(end - first, int64_t{0}), start + first * dilation};
  }

  ConvGeometry geometry_;
  int64_t size_[3];
  ImageSize y_;
  int64_t copied_;  // columns of a row that are joined: a multiple of 64
  int64_t behind_;  // elements that the last column of a window reads behind the first
  int64_t line_;    // elements of a line
};

}  // namespace nested_sparse
