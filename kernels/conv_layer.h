// ConvLayer: what the convolutions of float and of int8 weights share: the window, and the groups of channels.
#pragma once

#include <string>

#include "conv_plan.h"
#include "operator.h"

namespace nested_sparse {

// Names the matrix that a thread has gathered.
struct MatrixName {
  uint64_t run;
  int64_t image, tile, channel;
  bool operator==(const MatrixName& other) const {
    return run == other.run && image == other.image && tile == other.tile && channel == other.channel;
  }
};

class ConvLayer : public NestedOperator {
 public:
  // spatial: the most spatial dimensions that the operator takes. Throws ort::Error where the weight does not fit the
  // window or the groups.
  ConvLayer(const ort::Attributes& attributes, int64_t spatial);

 protected:
  // Returns the value of make(). An ort::Error that it throws gets the layer's name and `about` in front.
  template <class Make>
  auto checked(const char* about, const Make& make) const -> decltype(make()) {
    try {
      return make();
    } catch (const ort::Error& error) {
      fail(std::string(about) + error.what());
    }
  }
  // The parts of a tile's outputs: row groups, or where the convolution has several groups of channels, those.
  int64_t parts() const { return channel_groups_ == 1 ? weight_.spmm_groups() : channel_groups_; }
  // Throws ort::Error where X does not have the channels of the weight.
  void check_channels(const ImageSize& x) const;
  // Throws ort::Error where the output has several rows but one spatial dimension, or several slices but two.
  void check_output(const ImageSize& size) const;
  // Throws ort::Error where the residual does not have the output's size.
  void check_residual(const ImageSize& residual, const ImageSize& size) const;

  int64_t spatial_;  // dimensions: 1 to 3
  ConvGeometry geometry_;
  int64_t channel_groups_;  // the outputs of each read input channels of their own
  int64_t channels_;        // input channels that a row of the weight reads
  bool depthwise_;          // each row reads one channel, and only that row
};

}  // namespace nested_sparse
