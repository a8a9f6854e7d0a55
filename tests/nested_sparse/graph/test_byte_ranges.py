"""Byte ranges: int8 nodes whose scales, zero points, tables or margins no operator can compute with are refused."""

from __future__ import annotations

import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import AttributeProto, TensorProto, helper

from nested_sparse.checkpoint import Checkpoint
from nested_sparse.errors import CheckpointError
from nested_sparse.graph.check import check_graph
from nested_sparse.placement import LayerPlacement
from nested_sparse.slice import slice_checkpoint
from nested_sparse.tensor_spec import TensorSpec
from nested_sparse.value_type import INT8
from nested_sparse.writer import LevelRecord, write_checkpoint
from support import layer_record, random_weight

LEVELS = 2
WINDOW = {"kernel_shape": [1, 1], "strides": [1, 1], "pads": [0, 0, 0, 0], "dilations": [1, 1]}
OUTPUT = {"y_scale": [0.5, 0.25], "y_zero": [3, 255], "y_border": 0, "y_gap": 0}
OPEN = {"clip_min": float("-inf"), "clip_max": float("inf")}
TABLE = {"table": bytes(range(256)) * LEVELS, "sum_scale": [1.0, 2.0], "sum_zero": [0, 128]}


def write(path: Path, **changes: dict[str, Any]) -> Path:
    """An image through every int8 operator; changes: attributes by operator, None to leave one out."""
    rng = np.random.default_rng(0)
    conv = replace(layer_record(rng, random_weight(rng, "conv", 8, 4), LEVELS, "conv"), value_type=INT8)
    conv = replace(conv, attributes=WINDOW)
    linear = replace(layer_record(rng, random_weight(rng, "linear", 5, 8, 1), LEVELS), value_type=INT8)
    segments = [f"__segment_{level}__" for level in range(LEVELS)]

    def build(placements: dict[str, LayerPlacement]) -> bytes:
        def node(operator: str, inputs: list[str], output: str, **attributes: Any) -> Any:
            given = {**attributes, **changes.get(operator, {})}
            kept = {name: value for name, value in given.items() if value is not None}
            made = helper.make_node(operator, inputs, [output], domain="nested_sparse")
            made.attribute.extend(
                value if isinstance(value, AttributeProto) else helper.make_attribute(name, value)
                for name, value in kept.items()
            )
            return made

        def placed(layer: str) -> dict[str, Any]:
            return {"layer": layer, **OPEN, **asdict(placements[layer])}

        level = "__level__"
        nodes = [
            node("QuantizeImage", ["input", level], "u8", **OUTPUT),
            node("QuantizedConv", ["u8", level, "", *segments], "a", **WINDOW, **OUTPUT, **TABLE, **placed("conv")),
            node("QuantizedMaxPool", ["a"], "b", **WINDOW, y_border=1, y_gap=1),
            node("QuantizedAveragePool", ["b"], "c", **WINDOW, y_border=0, y_gap=0, count_include_pad=1),
            node("QuantizedAdd", ["a", "c", level], "d", **OPEN, **OUTPUT),
            node("QuantizedGlobalAveragePool", ["d"], "means"),
            node("QuantizedMultiply", ["d", "means", level], "e", **OPEN, **OUTPUT),
            node("DequantizeImage", ["e"], "f"),
            helper.make_node("GlobalAveragePool", ["f"], ["g"]),
            helper.make_node("Flatten", ["g"], ["h"]),
            node(
                "QuantizedLinear",
                ["h", level, "", *segments],
                "output",
                activations="static",
                x_scale=[0.5, 0.25],
                x_zero=[1, 2],
                **placed("linear"),
            ),
        ]
        inputs = [
            helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 4, "H", "W"]),
            helper.make_tensor_value_info(level, TensorProto.INT64, []),
            *(helper.make_tensor_value_info(name, TensorProto.UINT8, [f"{name}n"]) for name in segments),
        ]
        outputs = [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["N", 5])]
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("nested_sparse", 1)]
        graph = helper.make_graph(nodes, "int8", inputs, outputs)
        return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString())

    write_checkpoint(
        path,
        graph_builder=build,
        layers=[conv, linear],
        levels=[LevelRecord(density, 1, {}) for density in (0.2, 0.5)],
        inputs=[TensorSpec("input", "float32", (None, 4, None, None), (1, 4, 5, 5))],
        outputs=[TensorSpec("output", "float32", (None, 5), (1, 5))],
    )
    return path


def check(path: Path) -> None:
    with Checkpoint.open(path) as checkpoint:
        check_graph(checkpoint, checkpoint.graph())


def test_a_graph_of_every_operator_passes(tmp_path: Path) -> None:
    """And so does that of a slice, whose lists have more entries than the file has levels."""
    path = write(tmp_path / "whole.safetensors")
    check(path)
    slice_checkpoint(path, 1, tmp_path / "cut.safetensors")
    check(tmp_path / "cut.safetensors")


@pytest.mark.parametrize(
    "changes",
    [
        {"table": None, "sum_scale": None, "sum_zero": None},
        {"y_scale": [float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)], "y_zero": [0, 0]},
        {"y_border": 4096, "y_gap": 7},
        {"y_gap": AttributeProto(name="y_gap", type=AttributeProto.INT)},
    ],
)
def test_other_convolutions_pass(tmp_path: Path, changes: dict[str, Any]) -> None:
    """Without a table; with the least and the largest scale; with margins; without a number, which is 0."""
    check(write(tmp_path / "model.safetensors", QuantizedConv=changes))


@pytest.mark.parametrize("form", ["dynamic", "float32"])
def test_other_forms_of_activations_pass(tmp_path: Path, form: str) -> None:
    """Without scales in the node."""
    changes = {"activations": form, "x_scale": None, "x_zero": None}
    check(write(tmp_path / "model.safetensors", QuantizedLinear=changes))


SCALE = "expected a finite number of at least 2^-126 for each of 2 levels"
ZERO = "expected 0 to 255 for each of 2 levels"
REFUSED = [
    ("QuantizedConv", {"y_scale": [0.0, 1.0]}, f"says y_scale [0.0, 1.0], {SCALE}"),
    ("QuantizedConv", {"y_scale": [1.0, -1.0]}, SCALE),
    ("QuantizedConv", {"y_scale": [1.0, float("nan")]}, SCALE),
    ("QuantizedConv", {"y_scale": [float("inf"), 1.0]}, SCALE),
    ("QuantizedConv", {"y_scale": [1e-39, 1.0]}, SCALE),
    ("QuantizedConv", {"y_scale": [1.0]}, SCALE),
    ("QuantizedConv", {"y_scale": [1.0, 1.0, 1.0]}, SCALE),
    ("QuantizedConv", {"y_zero": [0, 256]}, f"says y_zero [0, 256], {ZERO}"),
    ("QuantizedConv", {"y_zero": [-1, 0]}, ZERO),
    ("QuantizedConv", {"y_zero": [0]}, ZERO),
    ("QuantizedConv", {"sum_scale": [0.0, 1.0]}, f"says sum_scale [0.0, 1.0], {SCALE}"),
    ("QuantizedConv", {"sum_zero": [0, 1000]}, ZERO),
    ("QuantizedConv", {"table": bytes(256)}, "has a table of 256 bytes, expected 512"),
    ("QuantizedConv", {"table": b""}, "has a table of 0 bytes, expected 512"),
    ("QuantizedConv", {"table": bytes(513)}, "has a table of 513 bytes, expected 512"),
    ("QuantizedConv", {"table": None}, "needs all of ['sum_scale', 'sum_zero', 'table']"),
    ("QuantizedConv", {"sum_zero": None}, "needs all of ['sum_scale', 'sum_zero', 'table']"),
    ("QuantizedConv", {"y_border": -1}, "says y_border -1, expected 0 to 4096"),
    ("QuantizedConv", {"y_gap": 4097}, "says y_gap 4097, expected 0 to 4096"),
    ("QuantizedConv", {"y_scale": [1, 1]}, "has an attribute 'y_scale' of QuantizedConv that it does not take"),
    ("QuantizedConv", {"x_tiled": 1}, "has an attribute 'x_tiled' of QuantizedConv that it does not take"),
    ("QuantizedConv", {"rows": AttributeProto(name="rows", type=AttributeProto.INT)}, "says rows 0 of layer 'conv'"),
    ("QuantizedConv", {"scale_offset": 64}, "says scale_offset 64 of layer 'conv', the metadata"),
    ("QuantizedConv", {"value_bytes": 4}, "says value_bytes 4 of layer 'conv', the metadata 1"),
    ("QuantizedConv", {"layer": "linear"}, "has a QuantizedConv of a layer 'linear'"),
    ("QuantizeImage", {"y_scale": [1.0]}, SCALE),
    ("QuantizeImage", {"y_zero": [1, 2, 3]}, ZERO),
    ("QuantizedAdd", {"y_scale": [-1.0, 1.0]}, SCALE),
    ("QuantizedMultiply", {"y_zero": [300, 1]}, ZERO),
    ("QuantizedMaxPool", {"y_border": 5000}, "says y_border 5000"),
    ("QuantizedLinear", {"x_scale": [0.0, 1.0]}, f"says x_scale [0.0, 1.0], {SCALE}"),
    ("QuantizedLinear", {"x_zero": [0, -5]}, ZERO),
    ("QuantizedLinear", {"x_zero": None}, "needs all of ['x_scale', 'x_zero']"),
    ("QuantizedLinear", {"activations": "dynamic"}, "says activations 'dynamic', and x_scale goes with 'static' only"),
    ("QuantizedLinear", {"activations": "int4"}, "says activations 'int4', expected one of"),
    ("QuantizedLinear", {"x_scale": None, "x_zero": None}, "says activations 'static', and x_scale goes with"),
]


@pytest.mark.parametrize(("operator", "changes", "message"), REFUSED)
def test_what_no_operator_computes_with_is_refused(
    tmp_path: Path, operator: str, changes: dict[str, Any], message: str
) -> None:
    """With the attribute, what it says and what was expected, before anything runs."""
    path = write(tmp_path / "model.safetensors", **{operator: changes})
    with pytest.raises(CheckpointError, match=re.escape(message)):
        check(path)
