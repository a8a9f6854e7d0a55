"""Nodes: questions about the nodes of a graph that several steps of the exporter ask."""

from __future__ import annotations

import math
from typing import Any

import onnx_ir as ir
from numpy.typing import NDArray

from nested_sparse.graph.contract import DOMAIN, WINDOW

OPEN = (-math.inf, math.inf)


def our_nodes(model: ir.Model, *operators: str) -> list[ir.Node]:
    """Every node of one of these operators of ours, also in subgraphs."""
    return [node for node in ir.traversal.RecursiveGraphIterator(model.graph) if is_ours(node, *operators)]


def is_ours(node: ir.Node | None, *operators: str) -> bool:
    """Whether `node` is one of these operators of ours."""
    return node is not None and node.domain == DOMAIN and node.op_type in operators


def rank_of(value: ir.Value) -> int | None:
    """Number of dimensions of `value`; None where it is not known."""
    return None if value.shape is None else value.shape.rank()


def constant_of(value: ir.Value | None) -> NDArray[Any] | None:
    """The array of a constant; None where the value is computed, or is none."""
    if value is None:
        return None
    if value.const_value is not None:
        return value.const_value.numpy()
    node = value.producer()
    held = None if node is None or node.op_type != "Constant" or node.domain else node.attributes.get("value")
    return None if held is None else held.as_tensor().numpy()


def following(node: ir.Node) -> ir.Node | None:
    """The only node that reads this node's only output; None where several do, or it is an output of the graph."""
    value, *others = node.outputs
    uses = value.uses()
    if others or len(uses) != 1 or value.is_graph_output():
        return None
    (use,) = uses
    return use.node if use.node.graph is node.graph else None


def clamp_behind(node: ir.Node) -> tuple[ir.Node | None, tuple[float, float]]:
    """The Relu, or the Clip with constant bounds, that alone reads the node's output, and its bounds.

    None and infinite bounds where there is none.
    """
    clamp = following(node)
    if clamp is None or clamp.domain != "" or clamp.inputs[0] is not node.outputs[0]:
        return None, OPEN
    if clamp.op_type == "Relu":
        return clamp, (0.0, math.inf)
    given = [*clamp.inputs[1:], None, None][:2]
    if clamp.op_type != "Clip" or any(value is not None and value.const_value is None for value in given):
        return None, OPEN
    low, high = (bound if value is None else _number(value) for value, bound in zip(given, OPEN, strict=True))
    return clamp, (low, high)


def _number(value: ir.Value) -> float:
    assert value.const_value is not None
    return float(value.const_value.numpy().item())


def same_shape(first: ir.Value, second: ir.Value) -> bool:
    """Whether both have one shape in every run; False where that is not known."""
    if first.shape is None or second.shape is None or len(first.shape) != len(second.shape):
        return False
    return all(same_size(a, b) for a, b in zip(first.shape, second.shape, strict=True))


def same_size(first: int | ir.SymbolicDim, second: int | ir.SymbolicDim) -> bool:
    """Whether both are one size in every run; False where that is not known."""
    if isinstance(first, int) or isinstance(second, int):
        return first == second
    return first.value is not None and first.value == second.value


def pool_window(pool: ir.Node) -> dict[str, list[int]] | None:
    """The WINDOW attributes of a MaxPool or AveragePool, ONNX's defaults included; None for what they do not say.

    That is a pool that rounds sizes up, pads by itself, or has a second output.
    """
    given = {name: attribute.value for name, attribute in pool.attributes.items()}
    plain = given.get("ceil_mode", 0) == 0 and given.get("auto_pad", "NOTSET") == "NOTSET"
    if not plain or len(pool.outputs) != 1:
        return None
    spatial = len(given["kernel_shape"])  # every pool has one
    absent = ((), (1,) * spatial, (0,) * 2 * spatial, (1,) * spatial)
    return {name: list(given.get(name, default)) for name, default in zip(WINDOW, absent, strict=True)}
