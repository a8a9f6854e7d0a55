"""The predicted signal-to-noise ratio: of what the output has to say, whatever constant lies under it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from int8_exports import exported, images, nested
from torch import Tensor, nn

from nested_sparse.checkpoint import Checkpoint
from nested_sparse.runtime import Session
from nested_sparse.trainer import NestedModel, nest, recalibrate
from nested_sparse.trainer.export.int8.histogram import Histogram


def far_from_zero(offset: float, linear: bool) -> NestedModel:
    """A network for inputs around `offset`, which the first layer's bias takes away exactly at every level."""
    torch.manual_seed(0)
    layers: tuple[nn.Module, ...] = (nn.Linear(24, 32), nn.ReLU(), nn.Linear(32, 8))
    if not linear:
        layers = (nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 4, 3))
    net = nested(nn.Sequential(*layers), densities=(0.7,))
    first = net.nested_layers()["0"]
    with torch.no_grad():
        first.bias.sub_(offset * torch.from_numpy(net.nested_weight("0").at(0).sum(axis=1)))
    return net


def ratios(path: Path) -> dict[str, float]:
    with Checkpoint.open(path) as checkpoint:
        return {layer.name: min(layer.sqnr_db) for layer in checkpoint.layers}


def measured_db(net: NestedModel, path: Path, x: Tensor) -> float:
    """Of the whole file's answer, about its mean."""
    with torch.no_grad(), Session(path, threads=1) as session:
        expected = net(x).numpy()
        got = session.run({session.inputs[0].name: x.numpy()}, 0)["output"]
    return float(10 * np.log10(expected.var() / np.square(expected - got).mean()))


@pytest.mark.parametrize("linear", [False, True])
def test_a_layer_that_loses_its_signal_under_a_constant_stays_float32(tmp_path: Path, linear: bool) -> None:
    """Its bytes are spent on the constant. The file is then as good as that of inputs around zero."""
    x = torch.randn(256, 24, generator=torch.Generator().manual_seed(0)) if linear else images(64)
    found = {}
    for offset in (0.0, 200.0):
        net = far_from_zero(offset, linear)
        path = exported(net, x + offset, tmp_path / f"{offset}.safetensors")
        found[offset] = ratios(path)["0"]
        assert measured_db(net, path, x + offset) > 30
        with Checkpoint.open(path) as checkpoint:
            assert {layer.name for layer in checkpoint.layers if not layer.value_type.scaled} == (
                {"0"} if offset else set()
            )
    assert found[200.0] < 10 < 35 < found[0.0]


def test_the_variance_is_that_about_the_mean() -> None:
    """Over several batches; values that are all equal have none, although sums of their squares are rounded."""
    seen, values = Histogram(), np.random.default_rng(0).normal(40, 2, (2, 500)).astype(np.float32)
    for batch in values:
        seen.add(batch)
    assert seen.variance == pytest.approx(values.astype(np.float64).var(), rel=1e-9)
    constant = Histogram()
    constant.add(np.full(1000, 0.1, np.float32))
    assert constant.variance == 0.0
    assert Histogram().variance == 0.0


def test_rows_that_say_nothing_cost_nothing(tmp_path: Path) -> None:
    """A sparse level leaves rows without weights. Behind them a depthwise layer sees zeros, and its norm divides by
    almost nothing: by the mean of its rows, it would be the noisiest of all layers.
    """
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 32, 1, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU6(),
        nn.Conv2d(32, 32, 3, padding=1, groups=32, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU6(),
        nn.Conv2d(32, 8, 1),
    )
    net = nest(model, densities=(0.15, 0.9), pattern="unstructured", keep_dense=("3",))
    x = images(64)
    recalibrate(net, [(x, torch.zeros(64))])
    net.eval()
    variance = net.level_norms()["4"].norms[0].running_var
    assert 0 < int((variance == 1).sum()) < len(variance)
    variance[variance == 1] = 0  # as training leaves them; `recalibrate` gives constant channels a 1
    with Checkpoint.open(exported(net, x, tmp_path / "net.safetensors")) as checkpoint:
        assert all(layer.value_type.scaled for layer in checkpoint.layers)
        assert all(min(layer.sqnr_db) > 25 for layer in checkpoint.layers)
