"""Ranges of sums of images: wide enough for what a denser level has put into them before the level fell."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from int8_exports import exported, images
from integer_model import IntegerModel
from onnx import helper
from torch import Tensor, nn

from nested_sparse.checkpoint import Checkpoint
from nested_sparse.trainer import NestedModel, nest


class Residual(nn.Module):
    """A stream to which every block adds; a sparser level adds less."""

    def __init__(self, blocks: int = 4) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.blocks = nn.ModuleList(nn.Conv2d(16, 16, 3, padding=1) for _ in range(blocks))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        for block in self.blocks:
            x = F.relu(x + block(x))
        return x


def by_magnitude() -> NestedModel:
    """Levels that differ in their share of the weights alone, as of a trained network that is only cut."""
    torch.manual_seed(0)
    model = Residual()
    with torch.no_grad():
        for block in model.blocks:
            block.weight.abs_().mul_(0.5)
    return nest(model, densities=(0.05, 0.3, 0.95), pattern="unstructured").eval()


def test_a_sum_holds_what_denser_levels_put_into_it(tmp_path: Path) -> None:
    """A range at a level contains those of all levels above; other tensors keep their own."""
    net, x = by_magnitude(), images(16)
    with Checkpoint.open(exported(net, x, tmp_path / "net.safetensors")) as checkpoint:
        nodes = onnx.load_from_string(checkpoint.graph()).graph.node
    sums = 0
    for node in nodes:
        facts = {each.name: helper.get_attribute_value(each) for each in node.attribute}
        if node.op_type != "QuantizedConv" or not node.input[2]:
            continue
        sums += 1
        least = [-zero * scale for scale, zero in zip(facts["y_scale"], facts["y_zero"], strict=True)]
        largest = [(255 - zero) * scale for scale, zero in zip(facts["y_scale"], facts["y_zero"], strict=True)]
        assert all(low <= high + 1e-6 for low, high in pairwise(least))
        assert all(low >= high - 1e-6 for low, high in pairwise(largest))
    assert sums == 4


def test_a_level_that_falls_behind_any_layer_does_not_cut_the_stream_off(tmp_path: Path) -> None:
    """Every cut between two layers, against the float32 file with the same cut."""
    net, x = by_magnitude(), images(16)
    path = exported(net, x, tmp_path / "net.safetensors")
    model, layers = IntegerModel(path), ["stem", *(f"blocks.{index}" for index in range(4))]
    with Checkpoint.open(path) as checkpoint:
        feeds = {checkpoint.inputs[0].name: x.numpy()}
    with torch.no_grad():
        nodes = sorted(model.layers, key=layers.index)
        for cut in range(1, len(layers)):
            got = model.run(feeds, {**dict.fromkeys(model.layers, 2), **dict.fromkeys(nodes[cut:], 1), **others(path)})
            expected = stepwise(net, x, cut)
            error = np.square(expected - next(iter(got.values()))).mean() / np.square(expected).mean()
            assert error < 1e-3, cut


def others(path: Path) -> dict[str, int]:
    """The level of the nodes that are no layer: they stand at both ends."""
    with Checkpoint.open(path) as checkpoint:
        nodes = onnx.load_from_string(checkpoint.graph()).graph.node
    return {node.name: 2 for node in nodes if "layer" not in {each.name for each in node.attribute}}


def stepwise(net: NestedModel, x: Tensor, cut: int) -> np.ndarray:
    """torch's answer with the layers before `cut` at the densest level and those behind it one below."""
    model = net.model
    net.set_level(2)
    value = F.relu(model.stem(x))
    for index, block in enumerate(model.blocks):
        net.set_level(1 if index + 1 >= cut else 2)
        value = F.relu(value + block(value))
    answer: np.ndarray = value.numpy()
    return answer
