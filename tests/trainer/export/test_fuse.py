"""Fusion: the pass on small graphs written by hand."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import onnx
import onnx.checker
import onnx_ir as ir
import pytest

from nested_sparse.placement import LayerPlacement
from nested_sparse.trainer.export.fuse import FusedGraph, fuse

LEVELS = 2
PLACEMENT = LayerPlacement(
    rows=4,
    columns=27,
    block_rows=4,
    index_bytes=2,
    blocks=[3, 5],
    offsets=[0, 64, 128, 192, 0, 64, 128, 256],
    permutation_offset=-1,
)


def graph(
    body: str, inputs: str = "float[N,4,8,8] x", outputs: str = "float[N,4,8,8] y", inner: Sequence[str] = ()
) -> ir.Model:
    """A traced graph in onnx's text form; `inner` values have the shape of x by default."""
    known = ", ".join(f"float[N,4,8,8] {name}" if " " not in name else name for name in inner)
    head = '<ir_version: 9, opset_import: ["": 20, "nested_sparse": 1]>'
    text = f"{head} main ({inputs}) => ({outputs}) <{known}> {{ {body} }}"
    for operator in ("NestedConv", "NestedLinear", "LevelNorm", "ScaledDotProductAttention"):
        text = text.replace(f" {operator}", f" nested_sparse.{operator}")
    return ir.from_proto(onnx.parser.parse_model(text))


def fused(model: ir.Model) -> tuple[list[onnx.NodeProto], FusedGraph]:
    """The nodes of the finished, checked graph."""
    table = np.stack([np.ones((LEVELS, 4)), np.zeros((LEVELS, 4))], axis=1)
    result = fuse(model, {"n": table, "m": table}, LEVELS)
    proto = onnx.load_from_string(result.to_bytes(dict.fromkeys(result.norm_of, PLACEMENT)))
    onnx.checker.check_model(proto)  # also refuses nodes that are out of order
    return list(proto.graph.node), result


def operators(model: ir.Model) -> list[str]:
    return [node.op_type for node in fused(model)[0]]


def attributes(node: onnx.NodeProto) -> dict[str, object]:
    return {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}


def test_whole_chain_becomes_one_node() -> None:
    """Norm, residual and clip are folded; the node has all attributes and inputs of the operator."""
    body = """c = NestedConv<layer="a", strides=[1,1]>(x) n = LevelNorm<layer="n">(c) s = Add(x, n)
              low = Constant<value = float {0}>() high = Constant<value = float {6}>() y = Clip(s, low, high)"""
    model = graph(body, inner=["c", "n", "s"])
    ir.passes.common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    (node,), result = fused(model)
    assert list(node.input) == ["x", "__level__", "x", "__segment_0__", "__segment_1__"]
    assert list(node.output) == ["y"]
    assert node.name == "a"
    expected = {name: getattr(PLACEMENT, name) for name in PLACEMENT.__slots__}
    del expected["banks"], expected["per_row"], expected["value_bytes"], expected["scale_offset"]  # not of plain floats
    expected |= {"layer": b"a", "strides": [1, 1], "clip_min": 0.0, "clip_max": 6.0}
    assert attributes(node) == expected
    assert result.norm_of == {"a": "n"}
    assert [value.name for value in result.model.graph.inputs] == ["x", "__level__", "__segment_0__", "__segment_1__"]


def test_nodes_of_gathers_say_so() -> None:
    """B and k are attributes where the layer has them."""
    _, result = fused(graph('y = NestedLinear<layer="a">(x)'))
    placement = dataclasses.replace(PLACEMENT, block_rows=1, banks=16, per_row=4)
    (node,) = onnx.load_from_string(result.to_bytes({"a": placement})).graph.node
    assert (attributes(node)["banks"], attributes(node)["per_row"]) == (16, 4)


def test_nodes_of_halves_say_so() -> None:
    """The width of values is an attribute where it is not that of float32."""
    _, result = fused(graph('y = NestedLinear<layer="a">(x)'))
    (node,) = onnx.load_from_string(result.to_bytes({"a": dataclasses.replace(PLACEMENT, value_bytes=2)})).graph.node
    assert attributes(node)["value_bytes"] == 2


def test_nothing_to_fold_leaves_infinite_bounds() -> None:
    """Without residual and clamp the input is missing and the bounds are infinite."""
    (node,), result = fused(graph('y = NestedLinear<layer="a">(x)'))
    assert list(node.input)[:3] == ["x", "__level__", ""]
    assert attributes(node)["clip_min"] == -np.inf
    assert attributes(node)["clip_max"] == np.inf
    assert result.norm_of == {"a": None}


@pytest.mark.parametrize("order", ["c, r", "r, c"])
def test_residual_made_after_the_layer_is_ordered_before_it(order: str) -> None:
    """The layer runs after its residual, whichever operand that is."""
    body = f'c = NestedConv<layer="a">(x) r = Sigmoid(x) s = Add({order}) y = Relu(s)'
    nodes, _ = fused(graph(body, inner=["c", "r", "s"]))
    assert [node.op_type for node in nodes] == ["Sigmoid", "NestedConv"]
    assert nodes[1].input[2] == "r"


def test_sum_of_two_layers_folds_into_one_of_them() -> None:
    """Both operands could fold the sum; one does, the other is its residual."""
    body = """c = NestedConv<layer="a">(x) n = LevelNorm<layer="n">(c)
              d = NestedConv<layer="b">(x) m = LevelNorm<layer="m">(d) s = Add(n, m) y = Relu(s)"""
    nodes, result = fused(graph(body, inner=["c", "n", "d", "m", "s"]))
    assert [node.op_type for node in nodes] == ["NestedConv", "NestedConv"]
    assert nodes[1].input[2] == nodes[0].output[0]
    assert result.norm_of == {"a": "n", "b": "m"}


UNFOLDABLE = {
    "read twice": ('c = NestedConv<layer="a">(x) r = Relu(c) y = Mul(r, c)', ["c", "r"], ["NestedConv", "Relu", "Mul"]),
    "doubled": ('c = NestedConv<layer="a">(x) y = Add(c, c)', ["c"], ["NestedConv", "Add"]),
    "broadcast": (
        'c = NestedConv<layer="a">(x) r = ReduceMax(x) y = Add(c, r)',
        ["c", "float[1,1,1,1] r"],
        ["NestedConv", "ReduceMax", "Add"],
    ),
    "other batch": (
        'c = NestedConv<layer="a">(x) r = Relu(x) y = Add(c, r)',
        ["c", "float[M,4,8,8] r"],
        ["NestedConv", "Relu", "Add"],
    ),
    "unknown size": (
        'c = NestedConv<layer="a">(x) r = Relu(x) y = Add(c, r)',
        ["float[?,4,8,8] c", "float[?,4,8,8] r"],
        ["NestedConv", "Relu", "Add"],
    ),
    "unknown shape": ('c = NestedConv<layer="a">(x) r = Relu(x) y = Add(c, r)', [], ["NestedConv", "Relu", "Add"]),
    "computed bound": (
        'c = NestedConv<layer="a">(x) r = ReduceMax<keepdims=0>(x) y = Clip(c, r)',
        ["c", "float r"],
        ["NestedConv", "ReduceMax", "Clip"],
    ),
    "activation first": (
        'c = NestedConv<layer="a">(x) r = Relu(c) y = Add(r, x)',
        ["c", "r"],
        ["NestedConv", "Add"],
    ),
}


@pytest.mark.parametrize("case", UNFOLDABLE)
def test_step_stays_outside(case: str) -> None:
    """A step that would change the result is not folded."""
    body, inner, expected = UNFOLDABLE[case]
    assert sorted(operators(graph(body, inner=inner))) == sorted(expected)


def test_graph_outputs_are_not_folded_past() -> None:
    """A value that is an output of the graph stays one."""
    model = graph('y = NestedConv<layer="a">(x) z = Relu(y)', outputs="float[N,4,8,8] y, float[N,4,8,8] z")
    assert operators(model) == ["NestedConv", "Relu"]


def test_different_norms_of_one_layer_stay_outside() -> None:
    """A layer used under two norms keeps one copy of its weights."""
    body = """c = NestedConv<layer="a">(x) n = LevelNorm<layer="n">(c)
              d = NestedConv<layer="a">(n) y = LevelNorm<layer="m">(d)"""
    nodes, result = fused(graph(body, inner=["c", "n", "d"]))
    assert result.norm_of == {"a": None}
    assert [node.op_type for node in nodes].count("NestedNorm") == 2
    assert [node.name for node in nodes if node.op_type == "NestedConv"] == ["a", "a.1"]


def test_norm_that_stands_alone_is_an_operator() -> None:
    """It reads its row of the table by the level, and takes over the clamp behind it; two calls share the table."""
    body = 'n = LevelNorm<layer="n">(x) r = Relu(n) y = LevelNorm<layer="n">(r)'
    nodes, result = fused(graph(body, inner=["n", "r"]))
    assert [node.op_type for node in nodes] == ["NestedNorm", "NestedNorm"]
    assert [list(node.input) for node in nodes] == [
        ["x", "__level__", "n.scale.rank1", "n.shift.rank1"],
        [nodes[0].output[0], "__level__", "n.scale.rank1", "n.shift.rank1"],
    ]
    assert [attributes(node) for node in nodes] == [
        {"clip_min": 0.0, "clip_max": np.inf},
        {"clip_min": -np.inf, "clip_max": np.inf},
    ]
    assert [tuple(value.shape) for value in result.model.graph.initializers.values()] == [(LEVELS, 4)] * 2
    assert result.version == 5


HEADS = ", ".join([*(f"{name}_axes=[0,1,2]" for name in "qkvy"), *(f"{name}_place=0" for name in "qkv")])


def test_attention_asks_for_its_version_of_the_format() -> None:
    """Also within a branch; what is around it is folded as elsewhere, and the image that it reads is not tiled."""
    attention = f"ScaledDotProductAttention<scale=0.5, {HEADS}>"
    body = f'c = NestedConv<layer="a">(x) r = Relu(c) a = {attention}(r, r, r) y = Relu(a)'
    nodes, result = fused(graph(body, inner=["c", "r", "a"]))
    assert [node.op_type for node in nodes] == ["NestedConv", "ScaledDotProductAttention", "Relu"]
    assert "y_tiled" not in attributes(nodes[0])
    assert attributes(nodes[1])["q_axes"] == [0, 1, 2]
    assert result.version == 7
    shape = "float[N,4,8,8]"
    body = f"""y = If (flag) <then_branch = yes () => ({shape} a) {{ a = {attention}(x, x, x) }},
                              else_branch = no () => ({shape} b) {{ b = Relu(x) }}>"""
    assert fused(graph(body, f"bool flag, {shape} x"))[1].version == 7


def test_linear_norm_folds_on_rank_two_only() -> None:
    """On rank 3 the norm's channels are the middle dimension, not the layer's rows."""
    body = 'c = NestedLinear<layer="a">(x) y = LevelNorm<layer="n">(c)'
    two = graph(body, "float[N,4] x", "float[N,4] y", ["float[N,4] c"])
    three = graph(body, "float[N,4,4] x", "float[N,4,4] y", ["float[N,4,4] c"])
    assert operators(two) == ["NestedLinear"]
    assert sorted(operators(three)) == ["NestedLinear", "NestedNorm"]


def test_layers_in_branches_are_folded_there() -> None:
    """Inside an If, a layer folds what follows it in its own branch and sees the level from outside."""
    shape = "float[N,4,8,8]"
    body = f"""y = If (flag) <then_branch = yes () => ({shape} a) {{ c = NestedConv<layer="a">(x) a = Relu(c) }},
                              else_branch = no () => ({shape} b) {{ b = LevelNorm<layer="n">(x) }}>"""
    (node,), _ = fused(graph(body, f"bool flag, {shape} x"))
    branches = attributes(node)
    assert [inner.op_type for inner in branches["then_branch"].node] == ["NestedConv"]
    assert [inner.op_type for inner in branches["else_branch"].node] == ["NestedNorm"]


def test_unused_weights_and_traces_are_dropped() -> None:
    """Unneeded parts do not stay in the graph."""
    model = graph('y = NestedConv<layer="a">(x) unused = Relu(x)')
    model.graph.register_initializer(ir.Value(name="w", const_value=ir.tensor(np.ones(3, np.float32), name="w")))
    for node in model.graph:
        node.metadata_props["stack_trace"] = node.doc_string = "secret"
        node.outputs[0].metadata_props["stack_trace"] = node.outputs[0].doc_string = "secret"
    model.metadata_props["where"] = model.graph.doc_string = model.doc_string = "secret"
    raw = fused(model)[1].to_bytes({"a": PLACEMENT})
    assert b"secret" not in raw
    assert not onnx.load_from_string(raw).graph.initializer
