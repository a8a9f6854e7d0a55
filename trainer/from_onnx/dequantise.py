"""dequantise: QuantizeLinear and DequantizeLinear taken out of a graph: weights become float32, activations a clamp.

A checkpoint computes its layers in float32, or in int8 by ranges of its own (`values="int8"`). Between the two nodes
of an activation, values are rounded and clamped. Only the clamp stays: quantisers leave a Relu to it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ..export.nodes import constant_of

Array = NDArray[Any]


def clamp_activations(model: ir.Model) -> bool:
    """Replace, in place, pairs of the two operators around activations by a Clip.

    Returns whether there were such pairs, without which values are rounded less.
    """
    clamped = [_clamp(node) for node in list(model.graph) if _is(node, "DequantizeLinear")]
    return any(clamped)


def dequantise(model: ir.Model) -> None:
    """Replace, in place, constants behind the two operators by their values."""
    for node in list(model.graph):
        if _is(node, "QuantizeLinear", "DequantizeLinear") and all(
            value is None or constant_of(value) is not None for value in node.inputs
        ):
            _fold(model, node)


def _is(node: ir.Node | None, *operators: str) -> bool:
    return node is not None and node.domain == "" and node.op_type in operators and bool(node.inputs)


def _fold(model: ir.Model, node: ir.Node) -> None:
    arrays = [constant_of(value) for value in node.inputs]
    folded = (_dequantised if node.op_type == "DequantizeLinear" else _quantised)(node, arrays)
    if folded is None:
        return
    old = node.outputs[0]
    tensor = ir.tensor(folded, name=old.name)
    source = node.inputs[0]
    name = f"{source.name if source is not None else old.name}.{node.op_type.lower()}"
    while name in model.graph.initializers:
        name += "_"
    tensor.name = name
    value = ir.Value(name=name, shape=ir.Shape(folded.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
    model.graph.register_initializer(value)
    old.replace_all_uses_with(value, replace_graph_outputs=True)
    assert node.graph is not None
    node.graph.remove(node, safe=True)


def _dequantised(node: ir.Node, arrays: list[Array | None]) -> Array | None:
    given, scale, zero = [*arrays, None][:3]
    assert given is not None
    assert scale is not None
    if scale.dtype != np.float32 or "output_dtype" in node.attributes:
        return None
    # numbers of 8 bits or less that numpy lacks, float8 and int4, are of kind "V"; float32 holds all of them
    wide = given.astype(np.int64 if given.dtype.kind in "iu" else np.float32)
    spread_scale, spread_zero = _spread(node, given, scale), None if zero is None else _spread(node, given, zero)
    if spread_scale is None:
        return None
    moved = wide if spread_zero is None else wide - spread_zero.astype(wide.dtype)
    return np.ascontiguousarray(moved.astype(np.float32) * spread_scale)


def _quantised(node: ir.Node, arrays: list[Array | None]) -> Array | None:
    given, scale, zero = [*arrays, None][:3]
    assert given is not None
    assert scale is not None
    spread = _spread(node, given, scale)
    dtype = np.dtype(np.uint8) if zero is None else zero.dtype
    if spread is None or dtype not in (np.uint8, np.int8) or "output_dtype" in node.attributes:
        return None
    moved = 0 if zero is None else _spread(node, given, zero)
    limits = np.iinfo(dtype)
    whole = np.rint(given / spread) + np.asarray(moved, np.float32)
    clipped: Array = np.clip(whole, limits.min, limits.max)
    return clipped.astype(dtype)


def _spread(node: ir.Node, given: Array, part: Array) -> Array | None:
    """A scale or zero point, of the whole tensor, of each entry of an axis, or of blocks along it, as it broadcasts."""
    if part.size == 1:
        return part.reshape(())
    axis = node.attributes["axis"].as_int() if "axis" in node.attributes else 1
    axis += given.ndim if axis < 0 else 0
    if part.ndim == 1 and axis < given.ndim and len(part) == given.shape[axis]:
        return part.reshape(*[-1 if each == axis else 1 for each in range(given.ndim)])
    block = node.attributes["block_size"].as_int() if "block_size" in node.attributes else 0
    if not block or part.ndim != given.ndim:
        return None
    spread: Array = np.repeat(part, block, axis=axis)[tuple(map(slice, given.shape))]
    return spread


def _clamp(node: ir.Node) -> bool:
    """Put a Clip in place of a DequantizeLinear behind a QuantizeLinear with the same scale and zero point.

    Returns whether it was one.
    """
    quantized = node.inputs[0]
    quantize = None if quantized is None else quantized.producer()
    if quantize is None or not _is(quantize, "QuantizeLinear") or constant_of(quantize.inputs[0]) is not None:
        return False
    pairs = [[constant_of(value) for value in [*each.inputs, None][1:3]] for each in (quantize, node)]
    (scale, zero), (other_scale, other_zero) = pairs
    if scale is None or other_scale is None or scale.size != 1 or not np.array_equal(scale, other_scale):
        return False
    zero = np.zeros((), np.uint8) if zero is None else zero
    other_zero = np.zeros((), np.uint8) if other_zero is None else other_zero
    if zero.size != 1 or not np.array_equal(zero, other_zero) or scale.dtype != np.float32:
        return False
    if (
        zero.dtype.kind not in "iu"
        or zero.dtype.itemsize > 2
        or "output_dtype" in {**quantize.attributes, **node.attributes}
    ):
        return False
    limits = np.iinfo(zero.dtype)
    ends = [(bound - int(zero.reshape(()))) * np.float32(scale.reshape(())) for bound in (limits.min, limits.max)]
    bounds = [ir.node("Constant", [], {"value": ir.tensor(np.float32(end))}) for end in ends]
    clip = ir.node("Clip", [quantize.inputs[0], *(each.outputs[0] for each in bounds)])
    old, new = node.outputs[0], clip.outputs[0]
    assert node.graph is not None
    node.graph.insert_before(node, [*bounds, clip])
    name, old.name = old.name, None
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
    new.name, new.type = name, old.type
    node.graph.remove(node, safe=True)
    return True
