"""Kinds of nodes: recurrent, transposed and quantised ones, in files that nest_onnx reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx_files import answers, close, random, recurrent, saved

from nested_sparse.checkpoint import Checkpoint
from nested_sparse.runtime import Session
from nested_sparse.trainer import nest_onnx


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
@pytest.mark.parametrize("directions", [1, 2])
def test_recurrent_files_with_states(kind: str, directions: int, tmp_path: Path) -> None:
    """A batch of one that is fixed, as the state has it in dimension 1; samples are runs of their own."""
    model = recurrent(kind, directions, batch=1)
    names = ["x", *(["h0", "c0"] if kind == "LSTM" else ["h0"])]
    data = {"x": random(20, 5, 6), **{name: random(20, directions, 1, 8, seed=3) for name in names[1:]}}
    path = nest_onnx(saved(model, tmp_path / "m.onnx"), data, tmp_path / "m.safetensors", densities=(0.2, 1.0))
    with Checkpoint.open(path) as checkpoint:
        assert {layer.op for layer in checkpoint.layers} == {kind.lower(), "linear"}
        assert len(checkpoint.layers) == 2 * directions + 1
    with Session(path, threads=1) as session:
        for index in (0, 7):
            feeds = {"x": data["x"][index : index + 1], **{name: data[name][index] for name in names[1:]}}
            expected, got = answers(model, feeds), session.run(feeds)
            for name in expected:
                close(got[name], expected[name])
            sparse = session.run(feeds, level=0)["output"]
            assert 1e-3 < np.abs(sparse - expected["output"]).max() < 2 * np.abs(expected["output"]).max()


def test_a_recurrent_file_with_a_free_batch_and_length(tmp_path: Path) -> None:
    """Without states, the batch is free, and the number of steps too."""
    model = recurrent("LSTM", 1, state=False, batch="N", steps="T")
    x = random(20, 5, 6)
    path = nest_onnx(saved(model, tmp_path / "m.onnx"), {"x": x}, tmp_path / "m.safetensors", densities=(0.2, 1.0))
    with Session(path, threads=1) as session:
        for feeds in ({"x": x}, {"x": random(3, 9, 6)}, {"x": random(1, 1, 6)}):
            expected, got = answers(model, feeds), session.run(feeds)
            for name in expected:
                close(got[name], expected[name])
