"""Volumes: networks of 3-D convolutions, exported, and their files compared with torch at every level."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from against_torch import assert_levels_as_torch
from torch import Tensor, nn

from nested_sparse.checkpoint import Checkpoint
from nested_sparse.runtime import Session
from nested_sparse.slice import slice_checkpoint
from nested_sparse.trainer import export, nest, nest_pretrained
from nested_sparse.value_type import INT8

DENSITIES = (0.2, 0.6)


class Video(nn.Module):
    """Norms, a sum, pools of both kinds, groups, a window that is one slice deep, padding by F.pad, a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv3d(3, 8, 3, stride=(1, 2, 2), bias=False), nn.BatchNorm3d(8)
        self.inner, self.inner_norm = nn.Conv3d(8, 8, 3, padding=1), nn.BatchNorm3d(8)
        self.flat, self.time = nn.Conv3d(8, 16, (1, 3, 3), padding="same"), nn.Conv3d(16, 16, (3, 1, 1), groups=4)
        self.depthwise, self.last = nn.Conv3d(16, 16, 3, padding=1, groups=16), nn.Conv3d(16, 12, 1)
        self.fc = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, D, H, W) to (N, 5)."""
        x = F.relu(self.norm(self.stem(F.pad(x, (1, 1, 0, 2, 1, 1)))))
        x = F.relu(self.inner_norm(self.inner(x)) + x)
        x = F.max_pool3d(F.relu(self.flat(x)), (1, 2, 2))
        x = F.max_pool3d(F.relu(self.time(F.pad(x, (0, 0, 0, 0, 1, 1)))), 2, 1, 1)
        x = F.avg_pool3d(F.relu(self.depthwise(x)), 2)
        return self.fc(self.last(x).mean((2, 3, 4)))


def example(samples: int = 2) -> Tensor:
    return torch.randn(samples, 3, 4, 13, 18, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("pattern", ["unstructured", "block4x1", "block16x1", "gs8x2", "channel"])
def test_a_network_answers_like_torch(pattern: str, tmp_path: Path) -> None:
    """The file does so whole and cut, on other batches than the example's; images between our layers are tiled."""
    torch.manual_seed(0)
    kept = ("stem", "depthwise", "time") if pattern == "gs8x2" else ()
    net = nest(Video(), densities=DENSITIES, pattern=pattern, keep_dense=kept)
    assert net.dense_layers() == {}
    path = export(net, (example(),), tmp_path / "net.safetensors", tolerance=1e-5)
    for samples in (1, 3):
        assert_levels_as_torch(net, path, example(samples))
    slice_checkpoint(path, 1, tmp_path / "cut.safetensors")
    assert_levels_as_torch(net, tmp_path / "cut.safetensors", example())
    with Checkpoint.open(path) as checkpoint:
        nodes = onnx.load_from_string(checkpoint.graph()).graph.node
        assert checkpoint.metadata.format_version == 5
        attributes = {layer.name: layer.attributes for layer in checkpoint.layers}
    assert attributes["stem"]["pads"] == [1, 0, 1, 1, 2, 1]
    assert attributes["flat"] == {
        "kernel_shape": [1, 3, 3],
        "strides": [1, 1, 1],
        "pads": [0, 1, 1, 0, 1, 1],
        "dilations": [1, 1, 1],
        "spatial_dimensions": [3],
    }
    operators = [node.op_type for node in nodes]
    assert operators.count("TiledMaxPool") == 2
    assert not {"Conv", "BatchNormalization", "Relu", "Add", "Pad", "MaxPool"} & set(operators)


def test_a_layer_alone_takes_a_volume_without_a_batch(tmp_path: Path) -> None:
    """torch's layer does, too."""
    torch.manual_seed(0)
    net = nest(nn.Conv3d(3, 8, 2), densities=DENSITIES)
    x = example()
    net.set_level(0)
    torch.testing.assert_close(net(x[0]), net(x)[0])
    assert_levels_as_torch(net, export(net, (x,), tmp_path / "net.safetensors"), x)


def test_values_of_two_bytes(tmp_path: Path) -> None:
    """float16 weights; the check of the export compares the file with torch at every level."""
    torch.manual_seed(0)
    path = export(nest(Video(), densities=DENSITIES), (example(),), tmp_path / "net.safetensors", values="float16")
    with Checkpoint.open(path) as checkpoint:
        assert {layer.value_type.name for layer in checkpoint.layers} == {"float16"}


def test_int8(tmp_path: Path) -> None:
    """Volumes stay bytes from layer to layer but for a mean of windows; a file that was cut answers as the whole."""
    torch.manual_seed(0)
    net = nest(Video(), densities=DENSITIES, pattern="block4x1").eval()
    data = example(8)
    path = export(net, (example(),), tmp_path / "net.safetensors", values="int8", calibration=[(data, None)])
    slice_checkpoint(path, 1, tmp_path / "cut.safetensors")
    with Checkpoint.open(path) as checkpoint:
        assert {layer.name: layer.value_type for layer in checkpoint.layers} == dict.fromkeys(net.nested_layers(), INT8)
        assert checkpoint.metadata.format_version == 5
        operators = [node.op_type for node in onnx.load_from_string(checkpoint.graph()).graph.node]
    assert operators.count("QuantizedMaxPool") == 2
    assert (operators.count("QuantizeImage"), operators.count("DequantizeImage")) == (2, 1)
    assert not {"MaxPool", "Conv", "NestedConv", "Relu", "Add"} & set(operators)
    with Session(path, threads=1) as session, Session(tmp_path / "cut.safetensors", threads=1) as sparse:
        for level in range(2):
            net.set_level(level)
            expected = net(data).detach().numpy()
            (answer,) = session.run({"input": data.numpy()}, level).values()
            error = float(np.sqrt(np.mean((answer - expected) ** 2) / np.var(expected)))
            assert error < 0.1, f"level {level}: {error:.3f} of the answers' deviation"
        np.testing.assert_array_equal(*(each.run({"input": data.numpy()}, 0)["output"] for each in (session, sparse)))


def test_post_training(tmp_path: Path) -> None:
    """The weights of the levels are fitted to the inputs of each layer."""
    torch.manual_seed(0)
    net = nest_pretrained(Video().eval(), [example(8)], densities=DENSITIES, samples=8)
    assert_levels_as_torch(net, export(net, (example(),), tmp_path / "net.safetensors"), example())


def test_a_product_in_a_forward_of_ones_own(tmp_path: Path) -> None:
    """A class that standardises its weight before it convolves."""

    class Standardised(nn.Conv3d):
        def forward(self, x: Tensor) -> Tensor:
            weight = self.weight - self.weight.mean((1, 2, 3, 4), keepdim=True)
            return F.conv3d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)

    torch.manual_seed(0)
    model = nn.Sequential(Standardised(3, 8, 3, padding=1), nn.ReLU(), nn.Conv3d(8, 4, 3))
    net = nest(model, densities=DENSITIES, example_inputs=(example(),))
    assert len(net.nested_layers()) == 2
    assert_levels_as_torch(net, export(net, (example(),), tmp_path / "net.safetensors"), example())
