// NestedConv: X [N, C, H, W] -> Y [N, O, Ho, Wo], with one spatial dimension X [N, C, W] -> Y [N, O, Wo], with three
// X [N, C, D, H, W] -> Y [N, O, Do, Ho, Wo]. It takes any stride, padding and dilation, and groups of channels as
// ONNX's Conv does.
#pragma once

#include <memory>
#include <vector>

#include "conv_layer.h"
#include "depthwise_plan.h"

namespace nested_sparse {

class NestedConv : public ConvLayer {
 public:
  explicit NestedConv(const ort::Attributes& attributes);
  void compute(const ort::Context& context) const override;

 private:
  // The values that every task of one run reads.
  struct Run {
    const WeightView& view;
    std::shared_ptr<const ConvPlan> plan;
    Image x, residual, y;  // residual.data is null where there is no residual
    uint64_t number;       // counts the runs of this process
  };
  // One tile of one image, and a range of its outputs. `outputs` counts row groups; where the convolution has several
  // groups of channels, it counts those.
  struct Task {
    int64_t image, tile;
    Part outputs;
  };
  Image read_image(const ort::Context& context, InputIndex index, const char* name, bool tiled) const;
  Image read_residual(const ort::Context& context, const ImageSize& size) const;
  Run run_of(const ort::Context& context, const WeightView& view, const Image& x, const ImageSize& size) const;
  void run_tasks(const ort::Context& context, const Run& run) const;
  SpmmArgs arguments(const Run& run, int64_t image, int64_t tile) const;
  void run_task(const Run& run, const Task& task) const;
  void multiply(const SpmmArgs& args, Part groups) const;
  void activate(const SpmmArgs& args, Part rows) const;
  void run_ranges(const Run& run, const Task& task, SpmmArgs& args) const;
  void run_depthwise(const ort::Context& context, const Run& run, const DepthwisePlan& plan) const;
  void run_band(const Run& run, const DepthwisePlan& plan, const DepthwisePlan::Band& band, int64_t image,
                Part channels) const;
  const float* gathered(const Run& run, const Task& task, int64_t channel_begin, int64_t channel_end) const;

  Outputs outputs_;
  bool whole_channels_;          // depthwise, and values are float32
  int64_t range_channels_;       // input channels of a range of columns; all channels where the columns are not cut
  std::vector<int64_t> bounds_;  // columns at which the ranges begin
  bool x_tiled_, y_tiled_, residual_tiled_;
  const KernelInfo& kernel_;
  const GatherInfo& gather_;
  PlanCache<ConvPlan> plans_;
  PlanCache<DepthwisePlan> depthwise_plans_;
};

}  // namespace nested_sparse
