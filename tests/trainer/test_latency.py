"""A budget in milliseconds: levels within their times, nested, and what is kept in them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from device_costs import FIXED_MS, OTHER_MS, imagined_costs
from small_models import small_batches
from torch import nn

from nested_sparse.device_costs import DeviceCosts, LayerCosts
from nested_sparse.errors import BudgetError
from nested_sparse.time_curve import TimeCurve
from nested_sparse.trainer import (
    FreezeThenGrow,
    Interleaved,
    Joint,
    NestedModel,
    TrainConfig,
    nest,
    nest_pretrained,
    predicted_latency,
    train,
)
from nested_sparse.trainer.model.choose import choose_masks
from nested_sparse.trainer.nestings import Nesting

SLOPES = {"0": 0.02, "3": 0.002, "7": 0.001}


def plain_net() -> nn.Sequential:
    """Two convolutions, a norm and a linear layer, whose rows make whole blocks."""
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16 * 16, 8),
    )


NET = nest(plain_net(), densities=(0.1, 0.3, 0.8), pattern="block4x1")
COSTS = imagined_costs(NET, SLOPES)
TIMES = (2.3, 2.8, 4.0)
BLOCK_MS = 4 * max(SLOPES.values())


def by_latency(model: nn.Module | None = None, **options: object) -> NestedModel:
    """`plain_net` with three levels under COSTS."""
    arguments: dict[str, object] = {"latency_ms": TIMES, "costs": COSTS, "budget_by": "latency", **options}
    return nest(model or plain_net(), **arguments)  # type: ignore[arg-type]


def kept_ms(net: NestedModel, level: int) -> float:
    """The time of a level, from its masks."""
    kept = {name: int(layer.mask(level).sum()) for name, layer in net.nested_layers().items()}
    return OTHER_MS + sum(FIXED_MS + SLOPES[name] * count for name, count in kept.items())


@pytest.mark.parametrize("budget", ["global", "uniform", "erk"])
@pytest.mark.parametrize("pattern", ["unstructured", "block4x1", "gs8x2"])
def test_each_level_takes_its_time(pattern: str, budget: str) -> None:
    """To within half a block of each layer, whatever the pattern and the rule; levels nest."""
    net = by_latency(pattern=pattern, budget=budget)
    step = 8 if pattern == "gs8x2" else net.nested_layers()["3"].block_rows
    for level, ms in enumerate(TIMES):
        assert abs(kept_ms(net, level) - ms) <= step * sum(SLOPES.values())
        assert predicted_latency(net, COSTS)[level] == pytest.approx(kept_ms(net, level))
    for layer in net.nested_layers().values():
        assert not (layer.mask(0) & ~layer.mask(1)).any()
        assert not (layer.mask(1) & ~layer.mask(2)).any()
    assert str(net.budget) == f"{budget} by latency of 2.3, 2.8, 4 ms"


def test_densities_are_those_that_the_masks_have() -> None:
    """Of the sparse layers together; a layer that is kept dense has its whole time at every level."""
    net = by_latency(keep_dense=("0",), latency_ms=(3.4, 3.8))
    layers = net.nested_layers()
    kept = [sum(int(layers[name].mask(level).sum()) for name in ("3", "7")) for level in (0, 1)]
    whole = layers["3"].values.numel() + layers["7"].values.numel()
    assert net.densities == pytest.approx([count / whole for count in kept])
    assert layers["0"].mask(0).all()
    assert abs(kept_ms(net, 0) - 3.4) <= BLOCK_MS


def best_score(budget_ms: float, scores: Mapping[str, np.ndarray]) -> float:
    """Largest sum of scores that fits into the time: the best scores for a millisecond, one after the other."""
    parts = [(score / SLOPES[name], np.full(score.size, SLOPES[name]), score) for name, score in scores.items()]
    worth, cost, score = (np.concatenate(each) for each in zip(*parts, strict=True))
    order = np.argsort(-worth)
    return float(score[order][np.cumsum(cost[order]) <= budget_ms].sum())


def test_the_largest_sum_of_scores_is_kept() -> None:
    """No more fits into the time than what the masks keep; equal shares keep less. The scores are those of LAMP."""
    net, uniform = by_latency(), by_latency(budget="uniform")
    scores = {}
    for name, layer in net.nested_layers().items():
        square = layer.values.detach().double().flatten() ** 2
        scores[name] = (square / torch.stack([square[square >= each].sum() for each in square])).numpy()
    for level, ms in enumerate(TIMES):
        kept, kept_uniform = (
            sum(
                float(scores[name][layer.mask(level).flatten().numpy()].sum())
                for name, layer in each.nested_layers().items()
            )
            for each in (net, uniform)
        )
        best = best_score(ms - OTHER_MS - 3 * FIXED_MS, scores)
        assert abs(kept - best) < 0.01 * best
        assert kept > kept_uniform


def test_a_layer_that_gains_no_time_keeps_everything() -> None:
    """A layer bound by memory costs the same nearly empty, so all levels keep nearly all of it."""
    net = by_latency(costs=imagined_costs(NET, {**SLOPES, "7": 0.0}), latency_ms=(2.2, 2.6))
    assert float(net.nested_layers()["7"].mask(0).float().mean()) > 0.99


def test_weights_are_kept_as_long_as_they_are_cheap() -> None:
    """A layer whose time begins to rise at half its weights keeps that half before another layer keeps more."""
    model = nn.Sequential(nn.Linear(16, 32), nn.Linear(32, 16))
    for layer in model:
        nn.init.uniform_(layer.weight, 0.9, 1.1)
    bent, straight = TimeCurve(((0, 0.0), (256, 0.1), (512, 5.1))), TimeCurve(((0, 0.0), (512, 2.0)))
    layers = {
        name: LayerCosts("linear", rows, 512 // rows, 1, {"unstructured": curve})
        for name, rows, curve in (("0", 32, bent), ("1", 16, straight))
    }
    costs = DeviceCosts("imagined", "none", "", 1, "float32", 0.0, layers)
    net = nest(model, latency_ms=(0.5, 1.6, 4.6), costs=costs, budget_by="latency")
    kept = [[int(layer.mask(level).sum()) for layer in net.nested_layers().values()] for level in range(3)]
    assert kept[0] == [256, pytest.approx(102, abs=1)]
    assert kept[1] == [256, pytest.approx(384, abs=1)]
    assert kept[2] == [pytest.approx(384, abs=1), 512]
    assert predicted_latency(net, costs) == pytest.approx([0.5, 1.6, 4.6], abs=0.02)
    for budget in ("uniform", "erk"):
        net = nest(model, latency_ms=(0.5, 1.6, 4.6), costs=costs, budget_by="latency", budget=budget)
        assert predicted_latency(net, costs) == pytest.approx([0.5, 1.6, 4.6], abs=0.02)


def test_a_density_between_levels_stands_for_a_time_between() -> None:
    """A search that comes from dense meets each level's time at its density, and half-way times half-way."""
    net = by_latency()
    layers = net.nested_layers().values()
    latency = net.budget.latency
    assert latency is not None
    for level, density in enumerate(net.densities):
        choose_masks(layers, net.budget, (density,))
        assert abs(kept_ms(net, 0) - TIMES[level]) <= BLOCK_MS
    middle = (net.densities[-1] + 1) / 2
    choose_masks(layers, net.budget, (*net.densities[:2], middle))
    assert abs(kept_ms(net, 2) - (TIMES[2] + latency.dense_ms) / 2) <= BLOCK_MS
    choose_masks(layers, net.budget, (1.0,))
    assert all(layer.mask(0).all() for layer in layers)


def test_frozen_levels_stay_when_masks_are_chosen_anew() -> None:
    """With other weights, what cheap layers gain does not take the frozen blocks of dear ones."""
    net = by_latency()
    layers = net.nested_layers()
    before = {name: (layer.mask(0).clone(), layer.mask(1).clone()) for name, layer in layers.items()}
    torch.manual_seed(5)
    for name, layer in layers.items():
        nn.init.normal_(layer.weight, std=10.0 if name == "3" else 0.01)
    choose_masks(layers.values(), net.budget, net.densities, frozen_levels=2)
    for name, layer in layers.items():
        for level in (0, 1):
            assert torch.equal(layer.mask(level), before[name][level])
    assert abs(kept_ms(net, 2) - TIMES[2]) <= BLOCK_MS


@pytest.mark.parametrize("nesting", [FreezeThenGrow(1, search_each=True), Interleaved(epochs=1), Joint(epochs=1)])
def test_training_ends_within_the_times(nesting: Nesting) -> None:
    """A search that comes from dense, level by level, for all levels or for one, with weights that move."""
    net = by_latency(pattern="block4x1")
    config = TrainConfig(dense_epochs=1, search_epochs=1, lr=0.1)
    train(net, small_batches(), nn.CrossEntropyLoss(), config, nesting=nesting)
    for level, ms in enumerate(TIMES):
        assert abs(kept_ms(net, level) - ms) <= 2 * BLOCK_MS


def test_levels_without_training_take_their_times() -> None:
    """nest_pretrained compares layers by the lost part of their output."""
    batches = [(images, labels) for images, labels in small_batches()(0)]
    net = nest_pretrained(
        plain_net(), batches, latency_ms=TIMES, costs=COSTS, budget_by="latency", pattern="unstructured", samples=32
    )
    for level, ms in enumerate(TIMES):
        assert abs(kept_ms(net, level) - ms) <= 2 * BLOCK_MS


def test_a_shared_weight_costs_the_time_of_all_its_uses() -> None:
    """Its masks are shared, so is its budget."""
    model = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 16))
    model[2].weight = model[0].weight
    costs = imagined_costs(nest(model, densities=(0.5,)), 0.01)
    net = nest(model, latency_ms=(3.25,), costs=costs, budget_by="latency")
    kept = {name: int(layer.mask(0).sum()) for name, layer in net.nested_layers().items()}
    assert kept["0"] == kept["2"]
    assert abs(OTHER_MS + 3 * FIXED_MS + 0.01 * sum(kept.values()) - 3.25) <= 0.02


def test_costs_come_as_a_file_or_as_its_content(tmp_path: Path) -> None:
    """All three forms give the same masks."""
    path = tmp_path / "costs.json"
    path.write_text(COSTS.to_json())
    nets = [by_latency(costs=form) for form in (COSTS, path, str(path), json.loads(COSTS.to_json()))]
    for net in nets[1:]:
        for name, layer in net.nested_layers().items():
            assert torch.equal(layer.first_level, nets[0].nested_layers()[name].first_level)


def without(costs: DeviceCosts, name: str) -> DeviceCosts:
    """The costs without one layer."""
    layers = {key: layer for key, layer in costs.layers.items() if key != name}
    return DeviceCosts("imagined", "none", "", 1, "float32", OTHER_MS, layers)


def whole_only(costs: DeviceCosts, name: str) -> DeviceCosts:
    """The costs in which one layer was measured whole."""
    layer = costs.layers[name]
    whole = LayerCosts(layer.op, layer.rows, layer.columns, 1, {}, whole_ms=1.0)
    return DeviceCosts("imagined", "none", "", 1, "float32", OTHER_MS, {**costs.layers, name: whole})


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"latency_ms": None}, "latency_ms: expected a list of milliseconds"),
        ({"latency_ms": 3.0}, "latency_ms: expected a list of milliseconds.*got 3.0"),
        ({"latency_ms": ()}, "latency_ms: expected a list of milliseconds"),
        ({"latency_ms": (3.0, "4")}, "latency_ms: expected numbers above 0.*'4'"),
        ({"latency_ms": (float("nan"),)}, "latency_ms: expected numbers above 0"),
        ({"latency_ms": (3.0, 3.0)}, "latency_ms must rise"),
        ({"latency_ms": (1.0, 3.0)}, r"1 ms of level 0 is less than .* from 1\.773 to 7\.542 ms"),
        ({"latency_ms": (3.0, 9.0)}, r"9 ms of level 1 is more than .* all weights; .* from 1\.773 to 7\.542 ms"),
        ({"densities": (0.1, 0.2)}, "finds the densities; give latency_ms alone"),
        ({"costs": None}, "needs costs"),
        ({"costs": {}}, "costs: format: expected a text"),
        ({"costs": without(COSTS, "3")}, "costs: there are none of layer '3'"),
        ({"costs": whole_only(COSTS, "3")}, "layer '3' was measured only with all weights kept; name it in keep_dense"),
        ({"pattern": "block8x1"}, "was measured with unstructured, block4x1, gs8x2, and the model has block8x1"),
        ({"pattern": "channel"}, "by latency is not for pattern 'channel'"),
        ({"budget_by": "weights", "densities": (0.1,)}, 'latency_ms: goes with budget_by="latency"'),
        (
            {"budget_by": "weights", "densities": (0.1,), "latency_ms": None},
            "costs: goes with budget_by=\"latency\", got 'weights', or with dense_where",
        ),
        ({"latency_ms": (3.0, 3.0001)}, "3 and 3.0001 ms keep the same weights"),
    ],
)
def test_wrong_arguments_are_named(options: dict[str, object], said: str) -> None:
    """The message says what came, what is possible, and what to do."""
    with pytest.raises(BudgetError, match=said):
        by_latency(**options)


def test_a_layer_that_was_measured_whole_may_stay_whole() -> None:
    """Its time is the measured one."""
    net = by_latency(costs=whole_only(COSTS, "3"), keep_dense=("3",), latency_ms=(3.0,))
    kept = {name: int(layer.mask(0).sum()) for name, layer in net.nested_layers().items()}
    ms = OTHER_MS + 2 * FIXED_MS + 1.0 + sum(SLOPES[name] * kept[name] for name in ("0", "7"))
    assert abs(ms - 3.0) <= BLOCK_MS


def test_more_patterns_may_be_measured_than_the_net_has() -> None:
    """Each layer is predicted by the line of its own pattern."""
    layers = {
        name: LayerCosts(
            layer.op,
            layer.rows,
            layer.columns,
            1,
            {"block4x1": TimeCurve(((0, 0.1),)), "unstructured": TimeCurve(((0, 0.7),))},
        )
        for name, layer in COSTS.layers.items()
    }
    costs = DeviceCosts("imagined", "none", "", 1, "float32", 0.0, layers)
    for pattern, ms in (("block4x1", 0.3), ("unstructured", 2.1)):
        assert predicted_latency(nest(plain_net(), densities=(0.1, 0.5, 0.7), pattern=pattern), costs) == pytest.approx(
            [ms] * 3
        )
