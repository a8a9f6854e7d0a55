"""products: Gemm and MatMul with a constant as linear layers."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from torch import nn

from ..export.nodes import constant_of, following, rank_of
from .found import Found, Make, answer_by, fed_input, in_front, number, removed, weight_of
from .taken import Taken


class Product(Found):
    """A Gemm, or a MatMul with the Add behind it."""

    def place(self, node: ir.Node, make: Make) -> None:
        """The layer reads the node's first operand, transposed where a Gemm transposes it."""
        (path,) = self.modules
        x = node.inputs[0]
        assert x is not None
        if node.op_type == "Gemm" and number(node, "transA", 0):
            turned = ir.node("Transpose", [x], {"perm": [1, 0]}, name=f"{node.name}.turned")
            in_front(node, turned)
            turned.outputs[0].name, turned.outputs[0].type = f"{node.name}.turned", x.type
            turned.outputs[0].shape = None if x.shape is None else ir.Shape(list(x.shape.dims)[::-1])
            x = turned.outputs[0]
        last = node
        if node.op_type == "MatMul":
            add = following(node)
            assert add is not None
            last = add
        (answer,) = make(path, [x], 1)
        answer_by(last, last.outputs[0], answer)
        for each in (last, node)[: 1 + (last is not node)]:
            removed(each)


def product(model: ir.Model, node: ir.Node, taken: Taken) -> Found | str | None:
    """The layer of a MatMul or Gemm; the reason why it has none; None where nothing is constant."""
    x, weight = node.inputs[:2]
    assert weight is not None
    values = constant_of(weight)
    if values is None:
        left = constant_of(x)
        if left is None or left.ndim < 2:
            return None
        return "its constant is the left operand; a linear layer has it on the right"
    if values.dtype != np.float32:
        return f"it computes in {values.dtype}; layers compute in float32: convert the model to float32"
    if values.ndim != 2 or not values.size:
        return f"its weight has the shape {list(values.shape)}, a linear layer's has two dimensions"
    return (
        _gemm(model, node, values, weight, taken)
        if node.op_type == "Gemm"
        else _matmul(model, node, values, weight, taken)
    )


def _gemm(model: ir.Model, node: ir.Node, values: NDArray[Any], weight: ir.Value, taken: Taken) -> Found | str:
    transposed = bool(number(node, "transB", 0))
    added = node.inputs[2] if len(node.inputs) > 2 else None
    bias = np.zeros((), np.float32) if added is None else constant_of(added)
    rows = values.shape[0 if transposed else 1]
    if bias is None:
        return "its bias is computed in the graph"
    if not _is_row(bias, rows):
        return f"its third operand, {list(bias.shape)}, differs from row to row of the output"
    alpha, beta = np.float32(number(node, "alpha", 1.0)), np.float32(number(node, "beta", 1.0))
    for name in ("alpha", "beta"):
        node.attributes.pop(name, None)
    linear = _linear(taken, weight, values if transposed else values.T, alpha, bias * beta)
    path = taken.path(node, weight)
    found = Product(node.name or "", {path: linear})
    operand = fed_input(model, taken.name(f"{path}.weight"), values.shape)
    summand = fed_input(model, taken.name(f"{path}.bias"), (rows,))
    found.feeds[operand.name or ""] = lambda get: get(path).weight if transposed else get(path).weight.t()
    found.feeds[summand.name or ""] = lambda get: get(path).bias
    node.resize_inputs(3)
    node.replace_input_with(1, operand)
    node.replace_input_with(2, summand)
    return found


def _matmul(model: ir.Model, node: ir.Node, values: NDArray[Any], weight: ir.Value, taken: Taken) -> Found | str:
    rows = values.shape[1]
    add, bias = _bias_behind(node, rows)
    path = taken.path(node, weight)
    linear = _linear(taken, weight, values.T, np.float32(1), np.zeros((), np.float32) if bias is None else bias)
    found = Product(node.name or "", {path: linear})
    operand = fed_input(model, taken.name(f"{path}.weight"), values.shape)
    summand = fed_input(model, taken.name(f"{path}.bias"), (rows,))
    found.feeds[operand.name or ""] = lambda get: get(path).weight.t()
    found.feeds[summand.name or ""] = lambda get: get(path).bias
    node.replace_input_with(1, operand)
    if add is not None:
        add.replace_input_with(0, node.outputs[0])
        add.replace_input_with(1, summand)
        return found
    old = node.outputs[0]
    add = ir.node("Add", [old, summand], name=taken.name(f"{node.name}.bias"))
    answer = add.outputs[0]
    name, old.name = old.name, taken.name(f"{old.name}.product")
    answer.type, answer.shape = old.type, old.shape
    ir.convenience.replace_all_uses_with(old, answer, replace_graph_outputs=True)
    add.replace_input_with(0, old)
    answer.name = name
    assert node.graph is not None
    node.graph.insert_after(node, add)
    return found


def _bias_behind(node: ir.Node, rows: int) -> tuple[ir.Node | None, NDArray[Any] | None]:
    """The Add of a constant, one number for each row, that alone reads the node's output; and the constant."""
    add = following(node)
    if add is None or add.op_type != "Add" or add.domain != "":
        return None, None
    other = add.inputs[1] if add.inputs[0] is node.outputs[0] else add.inputs[0]
    bias = constant_of(other)
    if bias is None or bias.dtype != np.float32 or not _is_row(bias, rows):
        return None, None
    if bias.ndim > max(1, rank_of(node.outputs[0]) or 0):
        return None, None
    return add, bias


def _is_row(bias: NDArray[Any], rows: int) -> bool:
    """Whether a summand is one number, or one for each row of the weight: the same for all samples."""
    return bias.size == 1 or (bias.size == rows and bias.shape[-1] == rows)


def _linear(taken: Taken, weight: ir.Value, values: NDArray[Any], alpha: np.float32, bias: NDArray[Any]) -> nn.Linear:
    """values: (O, K). Nodes that share a constant, and use it alike, share the parameter."""
    linear = nn.Linear(values.shape[1], values.shape[0], device="meta")
    key = (id(weight), "linear", values.shape, bool(values.flags.c_contiguous), float(alpha))
    linear.weight = taken.parameter(key, lambda: weight_of(values * alpha))
    linear.bias = weight_of(np.broadcast_to(bias.reshape(-1), (len(values),)))
    return linear
