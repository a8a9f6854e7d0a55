"""The tool int8_accuracy: a net that is restored from a file computes as the net that was exported."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

from nested_sparse.trainer import NestedModel, export, nest

TOOL = Path(__file__).parents[1] / "tools" / "int8_accuracy.py"


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("int8_accuracy", TOOL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["int8_accuracy"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def net_with_norms(seed: int) -> NestedModel:
    """Convolutions with and without a bias, norms that differ from level to level, a linear layer with a bias."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 12, 3, stride=2),
        nn.BatchNorm2d(12),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(12 * 9, 5),
    )
    net = nest(model, densities=(0.2, 0.6), pattern="block4x1", row_shuffle=True)
    with torch.no_grad():
        for norm in net.level_norms().values():
            for each in norm.norms:
                each.weight.uniform_(0.5, 1.5)
                each.bias.normal_()
                each.running_mean.normal_()  # type: ignore[operator, union-attr]
                each.running_var.uniform_(0.5, 1.5)  # type: ignore[operator, union-attr]
        for layer in net.nested_layers().values():
            if layer.biases is not None:
                layer.biases.normal_()
    return net.eval()


def test_a_restored_net_computes_the_same_and_can_be_trained(tool: ModuleType, tmp_path: Path) -> None:
    """At each level; also once its norms have statistics of their own, which are then those of a batch."""
    source, net = net_with_norms(1), net_with_norms(2)
    x = torch.randn(64, 3, 8, 8)
    path = export(source, (x[:1],), tmp_path / "net.safetensors", verify=False)
    tool.restore(net, path, (x[:1],))
    expected = []
    with torch.no_grad():
        for level in range(2):
            source.set_level(level)
            net.set_level(level)
            expected.append(source(x))
            torch.testing.assert_close(net(x), expected[-1], rtol=1e-4, atol=1e-4)
        tool.unfold_norms(net, [(x, None)])
        for level in range(2):
            net.set_level(level)
            torch.testing.assert_close(net(x), expected[level], rtol=1e-4, atol=1e-4)
        (first, *_) = net.level_norms().values()
        seen = net.model[0](x)  # type: ignore[index, operator]
        assert first.norms[net.level].running_mean is not None
        torch.testing.assert_close(first.norms[net.level].running_mean, seen.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
