"""Weights: forms in which files hold them that nest_onnx has to read exactly: float8, int4, sparse, beside columns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from onnx_files import answers, close, model_of, random, saved

from nested_sparse.checkpoint import Checkpoint
from nested_sparse.errors import ExportError
from nested_sparse.runtime import Session
from nested_sparse.trainer import nest_onnx
from nested_sparse.trainer.from_onnx import dequantise

X = random(8, 6)


def quantised(weight: NDArray[Any], scale: float, activations: bool) -> onnx.ModelProto:
    """x [N, 6], rounded to uint8 where `activations` says so, by a weight behind a DequantizeLinear."""
    constants = {"q": weight, "scale": np.float32(scale), "x_scale": np.float32(0.03), "x_zero": np.uint8(128)}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "x_scale", "x_zero"], ["x_q"]),
        helper.make_node("DequantizeLinear", ["x_q", "x_scale", "x_zero"], ["x_d"]),
    ]
    nodes = [
        *(nodes if activations else []),
        helper.make_node("DequantizeLinear", ["q", "scale"], ["w"]),
        helper.make_node("MatMul", ["x_d" if activations else "x", "w"], ["output"], "fc/MatMul"),
    ]
    model = model_of(nodes, {"x": ["N", 6]}, {"output": ["N", 5]}, constants, opset=21)
    model.ir_version = 10
    return model


@pytest.mark.parametrize("activations", [False, True])
@pytest.mark.parametrize("kind", ["float8_e4m3fn", "float8_e5m2", "int4", "uint4", "int16"])
def test_dequantised_weights_are_exact(kind: str, activations: bool, tmp_path: Path) -> None:
    """Also behind rounded activations, which hide small errors; numpy has no float8 and no int4."""
    dtype = np.dtype(getattr(ml_dtypes, kind, kind))
    numbers = random(6, 5) if kind.startswith("float8") else np.abs(random(6, 5)) * 3
    weight = numbers.astype(dtype)
    path = nest_onnx(
        saved(quantised(weight, 0.125, activations), tmp_path / "m.onnx"),
        {"x": X},
        tmp_path / "m.safetensors",
        densities=(0.3, 1.0),
    ).path
    with Checkpoint.open(path) as checkpoint:
        stored = checkpoint.load_layer("fc")[0].at(1)
    np.testing.assert_array_equal(stored, weight.astype(np.float32).T * np.float32(0.125))
    given = np.clip(X, -128 * 0.03, 127 * 0.03) if activations else X
    with Session(path, threads=1) as session:
        close(session.run({"x": X})["output"], (given @ stored.T).astype(np.float32))


def test_wrong_weights_behind_rounded_activations_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The roundings of activations do not excuse weights that are off by a few hundredths."""
    read = dequantise._dequantised
    monkeypatch.setattr(
        dequantise, "_dequantised", lambda *given: None if (found := read(*given)) is None else found * np.float32(1.03)
    )
    model = saved(quantised(random(6, 5, scale=20).astype(np.int8), 0.05, True), tmp_path / "m.onnx")
    with pytest.raises(ExportError, match="disagrees with ONNX Runtime"):
        nest_onnx(model, {"x": X}, tmp_path / "m.safetensors", densities=(0.5,))


@pytest.mark.parametrize("operator", ["MatMul", "Gemm"])
def test_a_summand_for_each_sample_is_no_bias(operator: str, tmp_path: Path) -> None:
    """[5, 1] beside an output [5, 5] has as many numbers as a bias, and another place."""
    constants = {"w": random(6, 5), "column": random(5, 1)}
    if operator == "Gemm":
        shape: list[Any] = [5]
        nodes = [helper.make_node("Gemm", ["x", "w", "column"], ["h"], "first/Gemm")]
    else:
        shape = ["N", 5]
        nodes = [
            helper.make_node("MatMul", ["x", "w"], ["m"], "first/MatMul"),
            helper.make_node("Add", ["m", "column"], ["h"]),
        ]
    constants["v"] = random(5, 3)
    nodes.append(helper.make_node("MatMul", ["h", "v"], ["output"], "last/MatMul"))
    model = model_of(nodes, {"x": [*shape, 6]}, {"output": [*shape, 3]}, constants)
    x = random(10, 6) if operator == "Gemm" else random(8, 5, 6)
    path = nest_onnx(saved(model, tmp_path / "m.onnx"), {"x": x}, tmp_path / "m.safetensors", densities=(0.3, 1.0)).path
    with Checkpoint.open(path) as checkpoint:
        names = [layer.name for layer in checkpoint.layers]
    assert names == (["last"] if operator == "Gemm" else ["first", "last"])  # a Gemm with another summand stays
    feeds = {"x": x[:5]}
    with Session(path, threads=1) as session:
        close(session.run(feeds)["output"], answers(model, feeds)["output"])


def with_sparse(constant: bool, places: NDArray[Any], opset: int = 18, shape: tuple[int, ...] = (6, 5)) -> Any:
    """x [N, 6] by a sparse [6, 5] with the numbers 1, 2, … at `places`, and by a dense [5, 5]."""
    values = numpy_helper.from_array(np.arange(1, len(places) + 1, dtype=np.float32), "w")
    sparse = helper.make_sparse_tensor(values, numpy_helper.from_array(places, "w_places"), list(shape))
    nodes = [
        *([helper.make_node("Constant", [], ["w"], sparse_value=sparse)] if constant else []),
        helper.make_node("MatMul", ["x", "w"], ["h"], "first/MatMul"),
        helper.make_node("MatMul", ["h", "v"], ["output"], "last/MatMul"),
    ]
    model = model_of(nodes, {"x": ["N", 6]}, {"output": ["N", 5]}, {"v": random(5, 5)}, opset=opset)
    if not constant:
        model.graph.sparse_initializer.append(sparse)
    return model


FLAT = np.array([1, 7, 8, 18, 29])
BY_AXIS = np.stack([FLAT // 5, FLAT % 5], axis=1)


@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize(("places", "opset"), [(FLAT, 17), (FLAT, 21), (BY_AXIS, 18)])
def test_sparse_tensors_are_read(constant: bool, places: NDArray[Any], opset: int, tmp_path: Path) -> None:
    """Initializers and constants, with flat places and with those of each axis, before and behind a conversion."""
    model = saved(with_sparse(constant, places, opset), tmp_path / "m.onnx")
    path = nest_onnx(model, {"x": X}, tmp_path / "m.safetensors", densities=(0.1,)).path
    with Checkpoint.open(path) as checkpoint:
        stored = checkpoint.load_layer("first")[0].at(1)
    expected = np.zeros(30, np.float32)
    expected[FLAT] = np.arange(1, 6)
    np.testing.assert_array_equal(stored, expected.reshape(6, 5).T)


@pytest.mark.parametrize(
    ("places", "shape", "words"),
    [
        (np.array([1, 30]), (6, 5), "places inside of the shape"),
        (np.array([-1, 3]), (6, 5), "places inside of the shape"),
        (np.array([[1, 2, 3]]), (6, 5), "places int64"),
        (np.array([1]), (1 << 40, 1 << 20), "more than 2147483647 bytes"),
        (np.array([1]), (-6, -5), "sizes from 0 on"),
    ],
)
@pytest.mark.parametrize("constant", [False, True])
def test_wrong_sparse_tensors_are_named(
    constant: bool, places: NDArray[Any], shape: tuple[int, ...], words: str, tmp_path: Path
) -> None:
    model = saved(with_sparse(constant, places, shape=shape), tmp_path / "m.onnx")
    with pytest.raises(ExportError, match=words):
        nest_onnx(model, {"x": X}, tmp_path / "m.safetensors", densities=(0.5,))
