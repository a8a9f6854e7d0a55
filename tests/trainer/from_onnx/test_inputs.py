"""Inputs: files whose batch is not dimension 0 of every input, and inputs without dimensions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper
from onnx_files import answers, model_of, random, recurrent, saved

from nested_sparse.errors import InputError
from nested_sparse.runtime import Session
from nested_sparse.trainer import nest_onnx

Array = NDArray[Any]
SCALAR = np.array(0.3, np.float32)


def scaled(batch: Any) -> onnx.ModelProto:
    """x [batch, 5] by a weight, times t []."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"], "fc/MatMul"),
        helper.make_node("Mul", ["m", "t"], ["output"]),
    ]
    return model_of(nodes, {"x": [batch, 5], "t": []}, {"output": [batch, 7]}, {"w": random(5, 7)})


def compared() -> onnx.ModelProto:
    """x [N, 5] and z [M, 5], each by one weight, and the products of their rows."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], "left/MatMul"),
        helper.make_node("MatMul", ["z", "w"], ["b"], "right/MatMul"),
        helper.make_node("Transpose", ["b"], ["t"], perm=[1, 0]),
        helper.make_node("MatMul", ["a", "t"], ["output"], "rows/MatMul"),
    ]
    return model_of(nodes, {"x": ["N", 5], "z": ["M", 5]}, {"output": ["N", "M"]}, {"w": random(5, 7)})


def states(rows: int, seed: int = 0) -> dict[str, Array]:
    shapes = {"x": (rows, 6, 6), "h0": (1, rows, 8), "c0": (1, rows, 8)}
    return {name: random(*shape, seed=seed + place) for place, (name, shape) in enumerate(shapes.items())}


def apart(count: int, rows: int) -> dict[str, Array]:
    runs = [states(rows, seed=3 * place) for place in range(count)]
    return {name: np.stack([run[name] for run in runs]) for name in runs[0]}


@pytest.mark.parametrize(
    ("model", "data", "feeds"),
    [
        (recurrent("LSTM", 1, batch="N", steps="T"), states(1), states(2)),
        (recurrent("LSTM", 1, batch="N", steps="T"), states(24), states(3)),
        (recurrent("LSTM", 1, batch="N", steps="T"), apart(5, 2), states(3)),
        (compared(), {"x": random(8, 5), "z": random(8, 5, seed=1)}, {"x": random(3, 5), "z": random(2, 5)}),
        (compared(), {"x": random(8, 5), "z": random(9, 5)}, {"x": random(3, 5), "z": random(2, 5)}),
        (scaled(1), {"x": random(6, 5), "t": random(6)}, {"x": random(1, 5), "t": SCALAR}),
        (scaled(2), {"x": random(6, 5), "t": random(3)}, {"x": random(2, 5), "t": SCALAR}),
        (scaled("N"), {"x": random(6, 5), "t": np.float32(2)}, {"x": random(4, 5), "t": SCALAR}),
        (scaled("N"), {"x": random(3, 6, 5), "t": random(3)}, {"x": random(4, 5), "t": SCALAR}),
    ],
    ids=["one", "one run", "runs", "two", "two, unequal", "scalar", "scalar, batch 2", "scalar, free", "scalar, runs"],
)
@pytest.mark.parametrize(("values", "tolerance"), [("float32", 1e-4), ("int8", 0.1)])
def test_files_whose_batch_is_elsewhere(
    model: onnx.ModelProto,
    data: dict[str, Array],
    feeds: dict[str, Array],
    values: str,
    tolerance: float,
    tmp_path: Path,
) -> None:
    """Arrays of the input's own shape are one run; more runs lie along one more dimension in front."""
    made = nest_onnx(
        saved(model, tmp_path / "m.onnx"),
        data,
        tmp_path / "m.safetensors",
        densities=(0.3, 1.0),
        values=values,
        report=True,
    )
    feeds = {name: np.asarray(each / 2) for name, each in feeds.items()}  # inside of the range of int8
    with Session(made.path, threads=1) as session:
        got, expected = session.run(feeds), answers(model, feeds)
    for name in expected:
        assert got[name].shape == expected[name].shape
        assert np.abs(got[name] - expected[name]).max() < tolerance * np.abs(expected[name]).max()


def test_arrays_of_unequal_counts_are_told_the_shapes(tmp_path: Path) -> None:
    data = {"x": random(8, 6, 6), "h0": random(8, 1, 8), "c0": random(8, 1, 8)}
    model = saved(recurrent("LSTM", 1, batch="N", steps="T"), tmp_path / "m.onnx")
    with pytest.raises(InputError, match=r"one more dimension, in front, .* 'x' \[samples, any, any, 6\], 'h0' \["):
        nest_onnx(model, data, tmp_path / "m.safetensors", densities=(0.5,))
