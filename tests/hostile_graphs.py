"""Hostile graphs: small, well-formed checkpoints whose ONNX graph was made to do harm."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from chain import counting_chain, linear_chain
from nested_sparse.checkpoint import Checkpoint
from nested_sparse.errors import CheckpointError
from nested_sparse.graph.check import check_graph
from nested_sparse.placement import LayerPlacement
from nested_sparse.writer import LayerRecord, LevelRecord, write_checkpoint

WIDTH = 4
Tamper = Callable[[onnx.ModelProto], Any]
Nodes = Sequence[onnx.NodeProto]


def write_hostile(path: Path, tamper: Tamper) -> Path:
    """Two layers of WIDTH, and what `tamper` makes of their graph: the model it changed, or bytes in its place."""
    plain = counting_chain(path.with_suffix(".plain"), 2, WIDTH)

    def build(placements: dict[str, LayerPlacement]) -> bytes:
        model = onnx.load_model_from_string(linear_chain(plain.records, 2)(placements))
        graph = tamper(model)
        return graph if isinstance(graph, bytes) else bytes(model.SerializeToString())

    return write_graph(path, plain.records, build)


def assert_refused(tamper: Tamper, message: str, folder: Path) -> None:
    """The graph that `tamper` makes is refused; the error names the file and the problem, and repeats little of it."""
    path = write_hostile(folder / "m.safetensors", tamper)
    with Checkpoint.open(path) as checkpoint, pytest.raises(CheckpointError, match=message) as caught:
        check_graph(checkpoint, checkpoint.graph())
    text = str(caught.value)
    assert text.startswith("m.safetensors: its graph ")
    assert text.isprintable()
    assert len(text) < 1000


def write_graph(path: Path, records: Sequence[LayerRecord], build: Callable[..., bytes]) -> Path:
    """A checkpoint with whatever graph."""
    from nested_sparse.tensor_spec import TensorSpec

    write_checkpoint(
        path,
        graph_builder=build,
        layers=records,
        levels=[LevelRecord((i + 1) / 2, 1000 * (i + 1), {}) for i in range(2)],
        inputs=[TensorSpec("input", "float32", (None, WIDTH), (1, WIDTH))],
        outputs=[TensorSpec("output", "float32", (None, WIDTH), (1, WIDTH))],
    )
    return path


def floats(name: str, values: Any) -> TensorProto:
    return numpy_helper.from_array(np.array(values, np.float32), name)


def integers(name: str, values: Any) -> TensorProto:
    return numpy_helper.from_array(np.array(values, np.int64), name)


def before_output(nodes: Nodes, initializers: Sequence[TensorProto] = ()) -> Tamper:
    """`nodes` compute `extra` from `input`, and the sum of `extra` is added to the output."""

    def tamper(model: onnx.ModelProto) -> None:
        graph = model.graph
        graph.node[-1].output[0] = "honest"
        graph.node.extend(nodes)
        graph.node.append(helper.make_node("ReduceSum", ["extra"], ["sum"], keepdims=0))
        graph.node.append(helper.make_node("Add", ["honest", "sum"], ["output"]))
        graph.initializer.extend(initializers)

    return tamper


def loop(body: Nodes, outputs: Sequence[str] = ("go", "value"), initializers: Sequence[TensorProto] = ()) -> Tamper:
    """A loop without a count. Its body has `turn`, `going`, `held`; the first of `outputs` says whether to go on."""
    inputs = [
        helper.make_tensor_value_info("turn", TensorProto.INT64, []),
        helper.make_tensor_value_info("going", TensorProto.BOOL, []),
        helper.make_tensor_value_info("held", TensorProto.FLOAT, None),
    ]
    made = [
        helper.make_tensor_value_info(outputs[0], TensorProto.BOOL, []),
        helper.make_tensor_value_info(outputs[1], TensorProto.FLOAT, None),
    ]
    graph = helper.make_graph(list(body), "body", inputs, made, list(initializers))
    node = helper.make_node("Loop", ["", "forever", "input"], ["extra"], body=graph)
    return before_output([node], [numpy_helper.from_array(np.array(True), "forever")])


def endless() -> Tamper:
    return loop([helper.make_node("Identity", ["going"], ["go"]), helper.make_node("Identity", ["held"], ["value"])])


def external(tensor: TensorProto, location: str) -> TensorProto:
    """`tensor` as if its bytes were in another file."""
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    return tensor


def nested_ifs(depth: int, innermost: onnx.NodeProto | None = None) -> onnx.NodeProto:
    """`extra`, made by If within If."""
    made = [helper.make_tensor_value_info("extra", TensorProto.FLOAT, None)]
    node = innermost or helper.make_node("Identity", ["input"], ["extra"])
    for _ in range(depth):
        otherwise = helper.make_graph([helper.make_node("Identity", ["input"], ["extra"])], "else", [], made)
        branch = helper.make_graph([node], "then", [], made)
        node = helper.make_node("If", ["forever"], ["extra"], then_branch=branch, else_branch=otherwise)
    return node


def attribute(name: str, kind: int, **fields: Any) -> AttributeProto:
    made = AttributeProto(name=name, type=kind)
    for key, value in fields.items():
        setattr(made, key, value)
    return made


def doubling(count: int, source: str, operator: str = "Concat", **attributes: Any) -> list[onnx.NodeProto]:
    """`extra`: `source` joined with itself, `count` times over."""
    names = [source, *(f"double{i}" for i in range(count - 1)), "extra"]
    return [helper.make_node(operator, [names[i], names[i]], [names[i + 1]], **attributes) for i in range(count)]
