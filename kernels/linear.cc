#include "linear.h"

namespace nested_sparse {

NestedLinear::NestedLinear(const ort::Attributes& attributes)
    : LinearLayer(attributes),
      norm_(attributes, weight_.columns()),
      transpose_from_(transpose_from(weight_.block_rows(), weight_.banks())),
      gemv_(find_gemv(isa_choice().isa, weight_.kind())),
      spmm_(find_spmm(isa_choice().isa, weight_.kind())) {}

void NestedLinear::compute(const ort::Context& context) const {
  WeightView view;
  this->view(context, view);
  Rows rows = read_rows(context);
  if (rows.count < transpose_from_) {
    rows.x = norm_.of(context, rows.x, rows.count);
    run_rows(context, view, rows);
    activate(context, rows);
  } else {
    const double cost = static_cast<double>(view.blocks * weight_.block_rows());
    run_transposed(context, rows, spmm_,
                   {view.weight, weight_.spmm_groups(), weight_.kernel_rows(), cost, spmm_.spmm, &norm_});
  }
}

void NestedLinear::run_rows(const ort::Context& context, const WeightView& view, const Rows& rows) const {
  const double cost = static_cast<double>(view.blocks * weight_.block_rows()) * static_cast<double>(rows.count);
  const int64_t tasks = task_count(weight_.gemv_groups(), cost, kMultiplyGrain);
  context.parallel_for(tasks, [&](int64_t task) {
    const Part groups = part_of(weight_.gemv_groups(), tasks, task);
    const GemvArgs args{view.weight, rows.x,     rows.residual,     rows.y,
                        clip_,       rows.count, weight_.columns(), weight_.rows()};
    gemv_.gemv(args, groups.begin, groups.end);
  });
}

}  // namespace nested_sparse
