// NestedConvTranspose: the transposed convolution of ONNX's ConvTranspose, with one group, for one to three spatial
// dimensions: X [N, C, H, W] -> Y [N, O, Ho, Wo], Ho = stride (H - 1) + dilation (KH - 1) + 1 - pads + output_padding.
//
// Outputs whose positions have one remainder modulo the stride are a phase: they read the same taps at fixed offsets,
// so a phase is a convolution of stride 1 (phases.h). The columns of the weight are ordered by phase, then channel,
// then tap of the phase, so each phase is a range of columns (column_cut.h). Rows are outputs, as in every layer:
// blocks lie within one tap, and a norm is that of a channel.
//
// Y is planar, and nothing is added to it. X may be tiled.
#pragma once

#include <memory>

#include "conv_layer.h"
#include "phases.h"

namespace nested_sparse {

class NestedConvTranspose : public ConvLayer {
 public:
  explicit NestedConvTranspose(const ort::Attributes& attributes);
  void compute(const ort::Context& context) const override;

 private:
  // The values that every task of one run reads.
  struct Run {
    const WeightView& view;
    std::shared_ptr<const Phases> phases;
    Image x, y;
    const uint32_t* starts;  // of each level: [row groups][cuts + 1]
    uint64_t number;
  };
  // One tile of the phases' pixels of one image, and a range of row groups.
  struct Task {
    int64_t image, tile;
    Part outputs;
  };
  const uint32_t* cut(const WeightView& view) const;
  void run_task(const Run& run, const Task& task) const;
  void run_phase(const Run& run, const Task& task, int64_t phase, SpmmArgs& args) const;

  Window window_;
  bool x_tiled_;
  int64_t range_channels_;       // input channels of a range of columns of a phase
  int64_t ranges_;               // of each phase
  std::vector<int64_t> bounds_;  // columns at which the weight is cut: phase after phase, range after range
  const KernelInfo& kernel_;
  const GatherInfo& gather_;
  PlanCache<Phases> plans_;
};

}  // namespace nested_sparse
