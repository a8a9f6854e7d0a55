"""simplify: the clean-up of the graph that torch.onnx makes: constants are folded, steps without effect removed.

torch.onnx does the same (`optimize=True`), but one of its rules walks the whole graph for every node: a forward that
unrolls a loop into thousands of nodes took minutes there, and takes seconds here (docs/decisions/026).
"""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
from onnx_ir.passes import common
from onnxscript import optimizer, rewriter
from onnxscript.rewriter.rules import common as rules

ROUNDS = 2
"""Number of rounds of folding constants and applying rules, since each makes work for the other; as in torch.onnx."""

_RULES = (
    "add_0_rule",
    "cast_cast_rule",
    "cast_constant_of_shape_rule",
    "cast_constant_of_shape_without_value_rule",
    "collapse_slice_rule",
    "collapse_slice2_rule",
    "div_by_1_rule",
    "dropout_inference_rule",
    "dropout_zero_rule",
    "flatten_to_reshape_rule",
    "fuse_batchnorm_into_conv_rule",
    "fuse_batchnorm_into_conv_transpose_rule",
    "fuse_batchnorm_into_gemm_rule",
    "fuse_pad_into_conv_rule",
    "materialize_reshape_shape_rule",
    "max_max_rule",
    "max_min_rule",
    "min_max_rule",
    "min_min_rule",
    "mul_by_1_rule",
    "no_op_cast_rule",
    "no_op_dynamic_scatter_nd_rule",
    "no_op_expand_rule",
    "no_op_static_scatter_nd_rule",
    "no_op_transpose_rule",
    "normalize_pad_format_conv_rule",
    "one_reshape_matmul_reshape_rule",
    "remove_optional_bias_from_conv_rule",
    "remove_optional_bias_from_conv_transpose_rule",
    "remove_optional_bias_from_gemm_rule",
    "reshape_reshape_rule",
    "squeeze_reshape_1d_rule",
    "sub_0_rule",
    "successive_clip_relu_rule",
    "successive_clip_rule",
    "successive_relu_clip_rule",
    "successive_relu_rule",
    "transpose_transpose_rule",
    "two_reshapes_matmul_reshape_rule",
    "unsqueeze_unsqueeze_rule",
)
"""The rules of torch.onnx except `slice_split_rule`, which ends in two nodes: it would be tried at every pair of nodes.
Each rule only saves work at inference, so a rule that another onnxscript lacks is left out."""


def _divided_in_two(op: Any, x: Any, y: Any) -> Any:
    return op.Mul(x, op.Reciprocal(y))


def _divided(op: Any, x: Any, y: Any) -> Any:
    """x / y. torch.onnx writes rsqrt as a Reciprocal, and only of a Div does ONNX Runtime see an RMS norm."""
    return op.Div(x, y)


def rule_set() -> rewriter.RewriteRuleSet:
    """The rules. Each one looks only at the few nodes before the node that it is tried at."""
    found = [rule for name in _RULES if (rule := getattr(rules, name, None)) is not None]
    return rewriter.RewriteRuleSet([*found, *rewriter.RewriteRule(_divided_in_two, _divided).commute()])


def simplify(model: ir.Model) -> None:
    """Inline functions, fold constants, apply the rules, remove unused and duplicate nodes; in place, in linear time.

    Every constant becomes an initializer, so that bounds and shapes can be read from its value.
    """
    if model.functions:
        common.InlinePass()(model)
    rewrite = rewriter.RewritePass(rule_set())
    for _ in range(ROUNDS):
        folded = optimizer.fold_constants(model, onnx_shape_inference=True)
        rewritten = rewrite(model)
        common.RemoveUnusedNodesPass()(model)
        if not (folded.modified or rewritten.modified):
            break
    for each in (
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.LiftSubgraphInitializersToMainGraphPass(),
        common.DeduplicateInitializersPass(),
        common.CommonSubexpressionEliminationPass(),
        common.OutputFixPass(),
        common.NameFixPass(),
    ):
        each(model)
