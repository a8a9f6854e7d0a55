"""Norms on their own: networks with normalisations in front of their convolutions, exported and compared with torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from nested_sparse.checkpoint import Checkpoint
from nested_sparse.runtime import Session
from nested_sparse.trainer import NestedModel, export, nest

CONVS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
NORMS = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


class Dense(nn.Module):
    """Two layers of a DenseNet, a sum of pre-activated branches, and a norm over features, in some dimensions."""

    def __init__(self, spatial: int, function: Callable[[], nn.Module]) -> None:
        super().__init__()
        conv, norm = CONVS[spatial], NORMS[spatial]
        self.stem = conv(2, 8, 3, padding=1)
        self.first = nn.Sequential(norm(8), function(), conv(8, 12, 1, bias=False), norm(12), function())
        self.second = conv(12, 8, 3, padding=1, bias=False)
        self.wide = nn.Sequential(norm(16), function(), conv(16, 8, 1, bias=False))
        self.last = nn.Sequential(norm(8), nn.Hardswish())
        self.features, self.head = nn.BatchNorm1d(8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.cat([x, self.second(self.first(x))], dim=1)
        x = self.last(self.wide(x))
        return self.head(self.features(x.flatten(2).mean(2)))


def net_of(model: nn.Module) -> NestedModel:
    """Nested, each level with statistics of its own."""
    torch.manual_seed(0)
    net = nest(model.eval(), densities=(0.2, 0.5, 0.9), pattern="block4x1")
    with torch.no_grad():
        for norm in net.level_norms().values():
            for each in norm.norms:
                each.running_mean.normal_()
                each.running_var.uniform_(0.5, 2)
                each.weight.normal_()
                each.bias.normal_()
    return net


def operators(path: Path) -> list[str]:
    """The operators of the file's graph."""
    with Checkpoint.open(path) as checkpoint:
        return [node.op_type for node in onnx.load_model_from_string(checkpoint.graph()).graph.node]


@pytest.mark.parametrize(("spatial", "function"), [(1, nn.ReLU6), (2, nn.SiLU), (3, nn.ReLU)])
def test_norms_in_front_are_one_node_each(spatial: int, function: Callable[[], nn.Module], tmp_path: Path) -> None:
    """Each takes the function behind it; answers are torch's at every level, also of other batches."""
    net = net_of(Dense(spatial, function))
    size = (9, 7, 5)[:spatial]
    path = export(net, (torch.randn(2, 2, *size),), tmp_path / "net.safetensors")
    found = operators(path)
    assert found.count("NestedNorm") == 3  # the others follow convolutions
    assert not {"Mul", "Add", "Gather", "Relu", "Clip", "Sigmoid"} & set(found)
    with Session(path, threads=1) as session, torch.no_grad():
        for level in range(3):
            net.set_level(level)
            for batch in (1, 3):
                x = torch.randn(batch, 2, *size)
                (got,) = session.run({session.inputs[0].name: x.numpy()}, level).values()
                expected = net(x).numpy()
                np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    with Checkpoint.open(path) as checkpoint:
        assert checkpoint.metadata.format_version == 5


def test_int8_files_have_them_too(tmp_path: Path) -> None:
    """Their inputs and outputs are floats."""
    net = net_of(Dense(2, nn.ReLU))
    x = torch.randn(64, 2, 9, 7)
    path = export(net, (x[:2],), tmp_path / "net.safetensors", values="int8", calibration=[(x, torch.zeros(64))])
    assert "NestedNorm" in operators(path)
    with Session(path, threads=1) as session, torch.no_grad():
        for level in range(3):
            net.set_level(level)
            (got,) = session.run({session.inputs[0].name: x.numpy()}, level).values()
            expected = net(x).numpy()
            assert np.sqrt(np.mean((got - expected) ** 2)) < 0.1 * np.sqrt(np.mean(expected**2))
