"""nest_onnx: files of several exporters become checkpoints that answer as ONNX Runtime does with the file's graph."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx_files import answers, close, keras_dense, learned_mlp, random, saved, torch_cnn, with_constants
from torch import nn

from nested_sparse.checkpoint import Checkpoint
from nested_sparse.runtime import Session
from nested_sparse.trainer import nest_onnx, nest_pretrained

Array = NDArray[Any]


def stored(path: Path, layer: str, level: int, shape: tuple[int, ...]) -> tuple[Array, Array]:
    """The weight and the bias of a level in the file, as a checkpoint's readers see them."""
    with Checkpoint.open(path) as checkpoint:
        weight, norms = checkpoint.load_layer(layer)
        scale, shift = norms[level]
        return (weight.at(level) * scale[:, None]).reshape(shape), shift


@pytest.mark.parametrize("pattern", ["unstructured", "block4x1", "channel"])
def test_every_level_answers_as_onnx_runtime_with_that_levels_weights(pattern: str, tmp_path: Path) -> None:
    """The reference is the original file, in which the weights of the level stand in place of the original ones."""
    model = torch_cnn()
    images = random(24, 3, 11, 10)
    path = nest_onnx(
        saved(model, tmp_path / "m.onnx"),
        {"input": images},
        tmp_path / "m.safetensors",
        densities=(0.2, 0.6),
        pattern=pattern,
    ).path
    layers = {
        "conv1": ("conv1.weight", "conv1.bias", (12, 3, 3, 3)),
        "layer1.0.conv": ("onnx::Conv_31", "onnx::Conv_32", (16, 12, 3, 3)),
        "conv3": ("conv3.weight", "conv3.bias", (16, 4, 3, 3)),
        "fc": ("fc.weight", "fc.bias", (7, 16)),
    }
    model.graph.node[4].input.append("conv3.bias")  # the file has none there; a level has one
    with Session(path, threads=1) as session:
        assert [spec.name for spec in (*session.inputs, *session.outputs)] == ["input", "output"]
        assert session.inputs[0].shape == (None, 3, 11, 10)
        for level in range(2):
            given = {}
            for layer, (weight, bias, shape) in layers.items():
                given[weight], given[bias] = stored(path, layer, level, shape)
                whole = pattern == "channel" and layer == "conv3"  # its groups read different channels
                assert whole or np.count_nonzero(given[weight]) < 0.7 * given[weight].size
            for count in (1, 5):
                feeds = {"input": images[:count]}
                close(session.run(feeds, level=level)["output"], answers(with_constants(model, given), feeds)["output"])


def test_a_keras_file_with_unnamed_sizes(tmp_path: Path) -> None:
    """MatMul and Add, padding "same" with strides, an old opset; at density 1 it answers as the file."""
    model, images = keras_dense(), random(20, 12, 12, 3)
    path = nest_onnx(
        saved(model, tmp_path / "m.onnx"), {"x": images}, tmp_path / "m.safetensors", densities=(0.3, 1.0)
    ).path
    with Session(path, threads=1) as session:
        close(session.run({"x": images})["dense_1"], answers(model, {"x": images})["dense_1"])
        close(session.run({"x": images[:1]})["dense_1"], answers(model, {"x": images[:1]})["dense_1"])
    with Checkpoint.open(path) as checkpoint:
        assert [layer.name for layer in checkpoint.layers] == ["model.conv", "model.dense", "model.dense_1"]


def test_a_scikit_learn_file(tmp_path: Path) -> None:
    """Its scaler and its class labels are ONNX's own operators now; the map of probabilities is a tensor."""
    model, rows = learned_mlp(), random(64, 6)
    expected = answers(model, {"X": rows})
    classes = [3, 5, 7, 9]
    path = nest_onnx(
        saved(model, tmp_path / "m.onnx"),
        {"X": rows, "truth": expected["label"]},
        tmp_path / "m.safetensors",
        densities=(0.1, 1.0),
        labels="truth",
    ).path
    with Session(path, threads=1) as session:
        got = session.run({"X": rows})
        assert np.array_equal(got["label"], expected["label"])
        table = np.array([[each[name] for name in classes] for each in expected["probabilities"]], np.float32)
        close(got["probabilities"], table)
        metrics = [level.metrics["accuracy"] for level in session.levels]
        right = [float((session.run({"X": rows}, level=each)["label"] == expected["label"]).mean()) for each in (0, 1)]
    assert metrics[1] == 1.0
    assert metrics == pytest.approx(right)


@pytest.mark.parametrize("rows", [1, 4])
def test_a_sparse_file_keeps_its_zeros_and_answers_as_before(rows: int, tmp_path: Path) -> None:
    """Its own zeros are the densest level, whatever densities are given above; the pattern follows its zeros."""
    model, images = torch_cnn(), random(24, 3, 11, 10)
    names = {"conv1": "conv1.weight", "layer1.0.conv": "onnx::Conv_31", "conv3": "conv3.weight", "fc": "fc.weight"}
    weights = {each.name: onnx.numpy_helper.to_array(each) for each in model.graph.initializer}
    zeroed = {}
    for name in names.values():
        weight = weights[name].copy().reshape(len(weights[name]), -1)
        blocks = np.random.default_rng(7).random((-(-len(weight) // rows), weight.shape[1])) < 0.8
        weight[np.repeat(blocks, rows, axis=0)[: len(weight)]] = 0
        zeroed[name] = weight.reshape(weights[name].shape)
    model = with_constants(model, zeroed)
    path = nest_onnx(
        saved(model, tmp_path / "m.onnx"),
        {"input": images},
        tmp_path / "m.safetensors",
        densities=(0.05, 0.1, 0.4, 0.9),
    ).path
    with Session(path, threads=1) as session:
        assert len(session.levels) == 3
        close(session.run({"input": images})["output"], answers(model, {"input": images})["output"])
    with Checkpoint.open(path) as checkpoint:
        for layer in checkpoint.layers:
            assert layer.pattern == ("unstructured" if rows == 1 else "block4x1")
            weight = checkpoint.load_layer(layer.name)[0].at(2)
            expected = zeroed[names[layer.name]].reshape(weight.shape)
            assert np.array_equal(weight, expected)
            assert layer.nnz[2] == np.count_nonzero(expected)


def test_sparse_levels_are_as_good_as_those_of_the_torch_model(tmp_path: Path) -> None:
    """The exporter folds the norms into the convolutions; a scale of each row and level does their work."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for channels in ((3, 16), (16, 24), (24, 24), (24, 32)):
        layers += [nn.Conv2d(*channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels[1]), nn.ReLU()]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))
    images = torch.from_numpy(random(64, 3, 12, 12))
    model.train()(images)
    model.eval()
    torch.onnx.export(
        model, (images[:1],), tmp_path / "m.onnx", input_names=["x"], dynamic_axes={"x": {0: "N"}}, dynamo=False
    )
    options: dict[str, Any] = {"densities": (0.2, 0.4, 0.7), "pattern": "block4x1"}
    nets = {
        "torch": nest_pretrained(model, [images], **options),
        "onnx": nest_onnx(tmp_path / "m.onnx", {"x": images.numpy()}, tmp_path / "m.safetensors", **options).net,
    }
    expected = model(images).detach()
    errors: dict[str, list[float]] = {name: [] for name in nets}
    with torch.no_grad():
        for name, net in nets.items():
            for level in range(3):
                net.set_level(level)
                errors[name].append(float((net(images) - expected).norm() / (expected - expected.mean(0)).norm()))
    assert errors["torch"][-1] < 0.7
    assert all(onnx <= 1.2 * other for onnx, other in zip(errors["onnx"], errors["torch"], strict=True)), errors


def test_values_may_be_solved_for_below_a_density_of_one(tmp_path: Path) -> None:
    """Sparse levels are then better, and the densest is near to the file, but not the file."""
    model, images = torch_cnn(), random(32, 3, 11, 10)
    source = saved(model, tmp_path / "m.onnx")
    expected = answers(model, {"input": images})["output"]
    errors: dict[bool, list[float]] = {}
    for kept in (True, False):
        path = tmp_path / f"{kept}.safetensors"
        nest_onnx(source, {"input": images}, path, densities=(0.2, 1.0), keep_values=kept)
        with Session(path, threads=1) as session:
            found = [session.run({"input": images}, level=level)["output"] for level in (0, 1)]
            errors[kept] = [float(np.linalg.norm(each - expected)) for each in found]
    assert errors[False][0] < errors[True][0]
    assert errors[True][1] < 1e-3 * errors[False][1]
