"""learned: scikit-learn's operators (domain ai.onnx.ml) that ONNX's own can replace."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

LEARNED = "ai.onnx.ml"


def without_learned(model: ir.Model) -> None:
    """Replace Scaler and ArrayFeatureExtractor, which stand around a multi-layer perceptron, in `model`, in place."""
    for node in list(model.graph):
        if node.domain != LEARNED:
            continue
        if node.op_type == "Scaler":
            _replace(node, _scaled(node))
        elif node.op_type == "ArrayFeatureExtractor" and all(node.inputs):
            _replace(node, _picked(node))


def _scaled(node: ir.Node) -> list[ir.Node]:
    """(x - offset) * scale, in float32."""
    (x,) = node.inputs
    offset, scale = (
        ir.node(
            "Constant",
            [],
            {"value": ir.tensor(np.asarray(node.attributes[name].as_floats(), np.float32))},
        )
        for name in ("offset", "scale")
    )
    cast = ir.node("Cast", [x], {"to": int(ir.DataType.FLOAT)})
    moved = ir.node("Sub", [cast.outputs[0], offset.outputs[0]])
    return [offset, scale, cast, moved, ir.node("Mul", [moved.outputs[0], scale.outputs[0]])]


def _picked(node: ir.Node) -> list[ir.Node]:
    """The columns of x that the indices name. Of a vector, the operator makes one row."""
    x, places = node.inputs
    shape = ir.node("Constant", [], {"value": ir.tensor(np.array([-1], np.int64))})
    flat = ir.node("Reshape", [places, shape.outputs[0]])
    picked = ir.node("Gather", [x, flat.outputs[0]], {"axis": -1})
    rank = None if x is None or x.shape is None else x.shape.rank()
    if rank != 1:
        return [shape, flat, picked]
    row = ir.node("Constant", [], {"value": ir.tensor(np.array([1, -1], np.int64))})
    return [shape, flat, picked, row, ir.node("Reshape", [picked.outputs[0], row.outputs[0]])]


def _replace(node: ir.Node, steps: list[ir.Node]) -> None:
    assert node.graph is not None
    (old,), (new,) = node.outputs, steps[-1].outputs
    node.graph.insert_before(node, steps)
    name, old.name = old.name, None
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
    node.graph.remove(node, safe=True)
    new.name, new.type = name, old.type
