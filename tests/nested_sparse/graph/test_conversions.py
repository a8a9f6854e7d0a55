"""Conversions: found wherever they stand, and called by their neighbours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from int8_file import write_int8
from onnx import TensorProto, helper, numpy_helper

from nested_sparse.checkpoint import Checkpoint
from nested_sparse.graph.conversions import Conversion, conversions
from support import EXAMPLE


def test_those_of_a_graph_are_called_by_their_neighbours(tmp_path: Path) -> None:
    """The graph's input, operators without a name, and names of nodes."""
    with Checkpoint.open(write_int8(tmp_path / "model.safetensors")) as checkpoint:
        assert conversions(checkpoint.graph()) == [
            Conversion(True, "input", ("conv",)),
            Conversion(False, "QuantizedMultiply", ("GlobalAveragePool",)),
        ]


def test_those_within_a_branch_are_found() -> None:
    """A branch reads the values around it; a value may be an output of the graph."""
    ours = {"domain": "nested_sparse"}
    branch = helper.make_graph(
        [helper.make_node("DequantizeImage", ["u8"], ["floats"], name="inner", **ours)],
        "branch",
        [],
        [helper.make_tensor_value_info("floats", TensorProto.FLOAT, None)],
    )
    nodes = [
        helper.make_node("QuantizeImage", ["x", "level"], ["u8"], name="entry", y_scale=[1.0], **ours),
        helper.make_node("If", ["yes"], ["y"], name="choice", then_branch=branch, else_branch=branch),
        helper.make_node("QuantizeImage", ["y", "level"], ["z"], y_scale=[1.0], **ours),
    ]
    yes = numpy_helper.from_array(np.array(True), "yes")
    graph = helper.make_graph(nodes, "graph", [], [helper.make_tensor_value_info("z", TensorProto.UINT8, None)], [yes])
    assert conversions(helper.make_model(graph).SerializeToString()) == [
        Conversion(True, "x", ("inner", "inner")),
        Conversion(False, "entry", ("floats",)),
        Conversion(False, "entry", ("floats",)),
        Conversion(True, "choice", ("z",)),
    ]


def test_a_float_file_has_none() -> None:
    """The shipped example."""
    with Checkpoint.open(EXAMPLE) as checkpoint:
        assert conversions(checkpoint.graph()) == []
