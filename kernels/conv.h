// NestedConv: X [N, C, H, W] -> Y [N, O, Ho, Wo], or with one spatial dimension [N, C, W] -> [N, O, Wo]; any stride,
// padding and dilation; groups of channels as in ONNX's Conv.
#pragma once

#include <memory>

#include "conv_plan.h"
#include "operator.h"

namespace nested_sparse {

class NestedConv : public NestedOperator {
 public:
  explicit NestedConv(const ort::Attributes& attributes);
  void compute(const ort::Context& context) const override;

 private:
  // One run: what every task of it reads.
  struct Run {
    const WeightView& view;
    std::shared_ptr<const ConvPlan> plan;
    Image x, residual, y;  // residual.data is null where there is none
    uint64_t number;       // of the run, in this process
  };
  // A range of the outputs of one tile of one image: row groups, or groups of channels where there are several.
  struct Task {
    int64_t image, tile;
    Part outputs;
  };
  Image read_image(const ort::Context& context, InputIndex index, const char* name, bool tiled) const;
  Image read_residual(const ort::Context& context, const ImageSize& size) const;
  std::shared_ptr<const ConvPlan> plan_for(const Image& x) const;
  void run_tasks(const ort::Context& context, const Run& run) const;
  void run_task(const Run& run, const Task& task) const;
  void run_ranges(const Run& run, const Task& task, SpmmArgs& args) const;
  void run_depthwise(const Run& run, const Task& task, SpmmArgs& args) const;
  const float* gathered(const Run& run, const Task& task, int64_t channel_begin, int64_t channel_end) const;

  ConvGeometry geometry_;
  int64_t spatial_;         // dimensions: 1 or 2
  int64_t channel_groups_;  // outputs of one read the input channels of one
  int64_t channels_;        // of the input that a row of the weight reads
  bool depthwise_;          // a row for each channel, values in float32
  int64_t range_channels_;  // input channels of a range of columns; all of them where there is one range
  bool x_tiled_, y_tiled_, residual_tiled_;
  const KernelInfo& kernel_;
  const GatherInfo& gather_;
  PlanCache plans_;
};

}  // namespace nested_sparse
