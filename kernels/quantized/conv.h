// QuantizedConv: a convolution of int8 weights over an image or a volume of bytes, with any stride, padding and
// dilation, and groups of channels as ONNX's Conv has them.
//
// X, residual and Y: quantized images (image.h). Attributes beside those of NestedConv: y_scale and y_zero, the range
// of Y at each level; y_border and y_gap, its layout. Where an activation function other than a clip follows, also
// `table`: its 256 bytes for each level map bytes of the range sum_scale, sum_zero to bytes of Y's range.
#pragma once

#include "../conv_layer.h"
#include "epilogue.h"
#include "plan.h"
#include "spmm8/spmm8.h"

namespace nested_sparse {

class QuantizedConv : public ConvLayer {
 public:
  explicit QuantizedConv(const ort::Attributes& attributes);
  void compute(const ort::Context& context) const override;

 private:
  // The values that every task of one run reads.
  struct Run {
    const BytePlan& plan;
    const Spmm8Args& args;  // what all tiles have in common
    QuantizedImage x, residual, y;
    int64_t shared_quads;  // of the epilogue
    uint64_t number;       // counts the runs of this process
  };
  struct Task {
    int64_t image, tile;
    Part outputs;  // of parts()
  };
  void read_table(const ort::Attributes& attributes);
  QuantizedImage read_residual(const ort::Context& context, const ImageSize& size) const;
  QuantizedImage write_y(const ort::Context& context, const ImageSize& size, int32_t level,
                         const QuantizedImage& residual) const;
  void run_tasks(const ort::Context& context, const WeightView& view, const Run& run) const;
  void run_task(const Run& run, const Task& task) const;
  void run_depthwise(const Run& run, const Task& task, Spmm8Args& args) const;
  const uint8_t* gathered(const Run& run, const Task& task, int64_t channel_begin, int64_t channel_end) const;

  ImageLayout y_layout_;
  std::vector<ByteRange> y_ranges_;    // of each level
  std::vector<ByteRange> sum_ranges_;  // the same, before the table
  std::vector<uint8_t> table_;         // 256 bytes for each level, or none
  Spmm8Kernel kernel_;
  Gather8Kernel gather_;
  PlanCache<BytePlan> plans_;
  EpilogueCache epilogues_;
};

}  // namespace nested_sparse
