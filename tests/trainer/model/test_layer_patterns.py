"""Mixed patterns: each layer the one that its costs favour, in one net and in its file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from nested_sparse.checkpoint import Checkpoint
from nested_sparse.device_costs import DeviceCosts, LayerCosts
from nested_sparse.errors import PatternError
from nested_sparse.runtime import Session
from nested_sparse.time_curve import TimeCurve
from nested_sparse.trainer import NestedModel, export, nest, predicted_latency

TIMES = (0.6, 1.2)
ROWS = {"0": (16, 32), "2": (32, 16), "4": (8, 32)}


def chain() -> nn.Sequential:
    """Three linear layers."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 8))


def costs(slopes: dict[str, dict[str, float]]) -> DeviceCosts:
    """Straight lines; slopes: layer and pattern to ms for each kept weight."""
    layers = {
        name: LayerCosts(
            "linear",
            *ROWS[name],
            1,
            {pattern: TimeCurve(((0, 0.1), (512, 0.1 + 512 * slope))) for pattern, slope in each.items()},
        )
        for name, each in slopes.items()
    }
    return DeviceCosts("imagined", "none", "", 1, "float32", 0.0, layers)


BLOCKS_WIN = {"unstructured": 0.01, "block4x1": 0.001, "block16x1": 0.02}
WEIGHTS_WIN = {"unstructured": 0.002, "block4x1": 0.002, "gs8x2": 0.0001}
MIXED = costs({"0": BLOCKS_WIN, "2": WEIGHTS_WIN, "4": {"block4x1": 0.002, "unstructured": 0.1, "block16x1": 0.0001}})


def mixed(**options: object) -> NestedModel:
    """The chain with a pattern for each layer."""
    arguments: dict[str, object] = {"latency_ms": TIMES, "costs": MIXED, "budget_by": "latency", "pattern": "auto"}
    return nest(chain(), **{**arguments, **options})  # type: ignore[arg-type]


def test_each_layer_gets_the_pattern_that_its_costs_favour() -> None:
    """Blocks where they are ten times as fast, weights where both take as long; gather groups are no choice."""
    net = mixed()
    patterns = {name: layer.layout.name for name, layer in net.nested_layers().items()}
    assert (patterns["0"], patterns["2"]) == ("block4x1", "unstructured")
    assert patterns["4"] != "unstructured"
    assert predicted_latency(net, MIXED) == pytest.approx(TIMES, abs=0.1)
    for layer in net.nested_layers().values():
        assert not (layer.mask(0) & ~layer.mask(1)).any()
        blocks = layer.mask(0).reshape(-1, min(layer.block_rows, len(layer.values)), layer.values.shape[1])
        assert (blocks.all(dim=1) | ~blocks.any(dim=1)).all()


def test_a_file_holds_mixed_patterns(tmp_path: Path) -> None:
    """It says the pattern of each layer, and answers as torch does."""
    net = mixed().eval()
    x = torch.randn(3, 32)
    path = export(net, (x,), tmp_path / "mixed.safetensors")
    with Checkpoint.open(path) as checkpoint:
        stored = {layer.name: layer.pattern for layer in checkpoint.layers}
    assert stored == {name: layer.layout.name for name, layer in net.nested_layers().items()}
    assert len(set(stored.values())) > 1
    with Session(path, threads=1) as session:
        for level in range(2):
            net.set_level(level)
            with torch.no_grad():
                expected: Tensor = net(x)
            assert torch.allclose(
                torch.from_numpy(session.run({"input": x.numpy()}, level)["output"]), expected, atol=1e-5
            )


def test_a_shared_weight_has_one_pattern() -> None:
    """The one that is best for all its layers together."""
    model = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 16))
    model[1].weight = model[0].weight

    def line(slope: float) -> TimeCurve:
        return TimeCurve(((0, 0.1), (256, 0.1 + 256 * slope)))

    layers = {
        "0": LayerCosts("linear", 16, 16, 1, {"unstructured": line(0.001), "block4x1": line(0.002)}),
        "1": LayerCosts("linear", 16, 16, 1, {"unstructured": line(0.1), "block4x1": line(0.002)}),
    }
    known = DeviceCosts("imagined", "none", "", 1, "float32", 0.0, layers)
    net = nest(model, latency_ms=(0.5,), costs=known, budget_by="latency", pattern="auto")
    assert {layer.layout.name for layer in net.nested_layers().values()} == {"block4x1"}


def test_auto_needs_costs() -> None:
    """Without them nothing can be favoured."""
    with pytest.raises(PatternError, match='goes with budget_by="latency"'):
        nest(chain(), densities=(0.1,), pattern="auto")
