"""Byte ranges: int8 nodes whose scales, zero points, tables or margins no operator can compute with are refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from int8_file import write_int8
from onnx import AttributeProto

from nested_sparse.checkpoint import Checkpoint
from nested_sparse.errors import CheckpointError
from nested_sparse.graph.check import check_graph
from nested_sparse.slice import slice_checkpoint


def check(path: Path) -> None:
    with Checkpoint.open(path) as checkpoint:
        check_graph(checkpoint, checkpoint.graph())


def test_a_graph_of_every_operator_passes(tmp_path: Path) -> None:
    """And so does that of a slice, whose lists have more entries than the file has levels."""
    path = write_int8(tmp_path / "whole.safetensors")
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
    check(write_int8(tmp_path / "model.safetensors", QuantizedConv=changes))


@pytest.mark.parametrize("form", ["dynamic", "float32"])
def test_other_forms_of_activations_pass(tmp_path: Path, form: str) -> None:
    """Without scales in the node."""
    changes = {"activations": form, "x_scale": None, "x_zero": None}
    check(write_int8(tmp_path / "model.safetensors", QuantizedLinear=changes))


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
    path = write_int8(tmp_path / "model.safetensors", **{operator: changes})
    with pytest.raises(CheckpointError, match=re.escape(message)):
        check(path)
