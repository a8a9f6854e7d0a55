// ConvLayer: what the convolutions of float and of int8 weights share: the window, and the groups of channels.
#pragma once

#include <string>

#include "conv_plan.h"
#include "operator.h"
#include "scratch.h"

namespace nested_sparse {

// Names the matrix that a thread has gathered.
struct MatrixName {
  uint64_t run;
  int64_t image, tile, channel;
  bool operator==(const MatrixName& other) const {
    return run == other.run && image == other.image && tile == other.tile && channel == other.channel;
  }
};

// The name of the matrix in this thread's memory for `matrix`.
MatrixName& held_name();

// The matrix called `name`, of `floats` floats, in this thread's memory. gather(matrix) makes it, unless this thread
// has gathered it last: a tile may be cut between two tasks that both run on this thread.
template <class Gather>
const float* held_matrix(const MatrixName& name, int64_t floats, const Gather& gather) {
  float* const matrix = scratch(Purpose::matrix, floats);
  if (!(held_name() == name)) {
    gather(matrix);
    held_name() = name;
  }
  return matrix;
}

// Input channels of a range of columns: all of them, or fewer where the columns are so many that they are cut.
int64_t channels_of_range(int64_t channels, int64_t taps);

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
