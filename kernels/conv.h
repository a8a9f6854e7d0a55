// NestedConv: X [N, C, H, W] -> Y [N, O, Ho, Wo], any stride, padding and dilation, one group.
#pragma once

#include <memory>
#include <mutex>

#include "conv_plan.h"
#include "operator.h"

namespace nested_sparse {

class NestedConv : public Operator {
 public:
  explicit NestedConv(const ort::Attributes& attributes);
  void compute(const ort::Context& context) const override;

 private:
  std::shared_ptr<const ConvPlan> plan_for(int64_t height, int64_t width) const;
  const float* planes_of(const ort::Context& context, const ConvPlan& plan, const float* image) const;
  void run_image(const ort::Context& context, const SpmmArgs& args, int64_t blocks) const;

  ConvGeometry geometry_;
  int64_t channels_;
  const KernelInfo& kernel_;
  mutable std::mutex mutex_;
  mutable std::shared_ptr<const ConvPlan> plan_;  // of the last image size seen
};

}  // namespace nested_sparse
