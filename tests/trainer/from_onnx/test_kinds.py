"""Kinds of nodes: recurrent, transposed and quantised ones, in files that nest_onnx reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx_files import answers, attention, close, quantised_cnn, random, recurrent, saved, transposed

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
    path = nest_onnx(saved(model, tmp_path / "m.onnx"), data, tmp_path / "m.safetensors", densities=(0.2, 1.0)).path
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
    path = nest_onnx(saved(model, tmp_path / "m.onnx"), {"x": x}, tmp_path / "m.safetensors", densities=(0.2, 1.0)).path
    with Session(path, threads=1) as session:
        for feeds in ({"x": x}, {"x": random(3, 9, 6)}, {"x": random(1, 1, 6)}):
            expected, got = answers(model, feeds), session.run(feeds)
            for name in expected:
                close(got[name], expected[name])


@pytest.mark.parametrize(
    ("spatial", "pads", "more"), [(1, [1, 1], 0), (2, [1, 1, 1, 1], 1), (2, [1, 1, 0, 0], 0), (3, [1] * 6, 0)]
)
def test_transposed_convolutions(spatial: int, pads: list[int], more: int, tmp_path: Path) -> None:
    """Pads at the end may be fewer than at the begin, as those of Keras are."""
    model, x = transposed(spatial, pads, more), random(6, 6, *[7] * spatial)
    path = nest_onnx(saved(model, tmp_path / "m.onnx"), {"x": x}, tmp_path / "m.safetensors", densities=(0.3, 1.0)).path
    with Checkpoint.open(path) as checkpoint:
        assert [layer.op for layer in checkpoint.layers] == ["conv_transpose", "conv"]
    with Session(path, threads=1) as session:
        close(session.run({"x": x})["output"], answers(model, {"x": x})["output"])


def test_a_quantised_file_becomes_float32(tmp_path: Path) -> None:
    """Its weights are the dequantised ones; its answers differ by the roundings, which a checkpoint leaves out."""
    model, x = quantised_cnn(), random(16, 3, 8, 8)
    path = nest_onnx(saved(model, tmp_path / "m.onnx"), {"x": x}, tmp_path / "m.safetensors", densities=(0.3, 1.0)).path
    arrays = {each.name: onnx.numpy_helper.to_array(each) for each in model.graph.initializer}
    conv = arrays["w"].astype(np.float32) * arrays["w_scale"][:, None, None, None]
    fc = np.clip(np.rint(arrays["fc"] / np.float32(0.01)), -128, 127).astype(np.float32) * np.float32(0.01)
    with Checkpoint.open(path) as checkpoint:
        weights = {layer.name: checkpoint.load_layer(layer.name)[0].at(1) for layer in checkpoint.layers}
    np.testing.assert_allclose(weights["conv"], conv.reshape(8, -1), rtol=1e-6)
    np.testing.assert_allclose(weights["fc"], fc.T, rtol=1e-6)
    bias = torch.from_numpy((arrays["b"] * arrays["b_scale"]).astype(np.float32))
    image = torch.from_numpy(x).clamp(-128 * 0.04, 127 * 0.04)
    sums = torch.nn.functional.conv2d(image, torch.from_numpy(conv), bias, padding=1).clamp(0, 255 * 0.02)
    exact = sums.mean((2, 3)) @ torch.from_numpy(fc)
    with Session(path, threads=1) as session:
        got = session.run({"x": x})["output"]
    close(got, exact.numpy())
    expected = answers(model, {"x": x})["output"]
    assert 0 < np.abs(got - expected).max() < 0.05 * np.abs(expected).max()


def test_products_that_stay_are_counted(tmp_path: Path) -> None:
    """Attention as torch writes it: the products of computed tensors are no layers, and count as dense FLOPs."""
    model, x = attention(), random(10, 6, 8)
    path = nest_onnx(
        saved(model, tmp_path / "m.onnx"), {"x": x}, tmp_path / "m.safetensors", densities=(0.25, 1.0)
    ).path
    with Session(path, threads=1) as session:
        close(session.run({"x": x})["output"], answers(model, {"x": x})["output"])
        flops = [level.flops for level in session.levels]
    with Checkpoint.open(path) as checkpoint:
        network = checkpoint.metadata.network
    assert network is not None
    assert {module.name: module.flops for module in network.dense if module.flops} == {
        "scores/MatMul": 2 * 6 * 6 * 8,
        "mix/MatMul": 2 * 6 * 8 * 6,
    }
    sparse = 4 * 2 * 6 * 8 * 8
    assert flops == [2 * 2 * 6 * 6 * 8 + sparse // 4, 2 * 2 * 6 * 6 * 8 + sparse]
    assert {module.name: module.why.partition(";")[0] for module in network.dense if module.weights} == {
        "table": "Add reads it"
    }
