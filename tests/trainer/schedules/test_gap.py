"""GaP: dense parts, targets, resumed runs, and parts of several processes."""

from __future__ import annotations

import importlib
import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from small_models import assert_goes_on, snapshot
from torch import Tensor, nn

from nested_sparse.errors import TrainingError
from nested_sparse.trainer import FreezeThenGrow, Gap, NestedModel, TrainConfig, nest, train
from nested_sparse.trainer.data.images import Batches, LabelledImages
from nested_sparse.trainer.schedules import SCHEDULES
from nested_sparse.trainer.zoo import DigitNet

CONFIG = TrainConfig(dense_epochs=0, search_epochs=3, recalibration_samples=0, distill_weight=0)
SEARCH_ONLY = FreezeThenGrow(epochs_per_level=0)
BATCHES_PER_EPOCH = 4
SIZES = {"0": 72, "3": 1152, "6": 1152, "9": 4096, "11": 96}
"""Weights of each layer of `deep_net`, in its order."""


def deep_net() -> nn.Sequential:
    """Five layers to prune, of very different sizes, one norm, and a bias on the linear layers."""
    torch.manual_seed(7)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 8, 3, padding=1, bias=False),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(128, 32),
        nn.ReLU(),
        nn.Linear(32, 3),
    )


def nested(**options: Any) -> NestedModel:
    return nest(deep_net(), **{"densities": (0.2, 0.5), **options})


def batches(epoch: int) -> Iterable[Any]:
    generator = torch.Generator().manual_seed(5)
    data = LabelledImages(torch.rand(32, 1, 8, 8, generator=generator), torch.randint(0, 3, (32,), generator=generator))
    return Batches(data, 32 // BATCHES_PER_EPOCH)(epoch)


@dataclass
class Record:
    """Masks of the searched level and weights at every training step, read in the loss function."""

    net: NestedModel
    masks: list[dict[str, Tensor]] = field(default_factory=list)
    weights: list[dict[str, Tensor]] = field(default_factory=list)
    levels: list[int] = field(default_factory=list)

    def loss_fn(self, outputs: Tensor, targets: Tensor) -> Tensor:
        layers = self.net.nested_layers()
        self.levels.append(self.net.level)
        self.masks.append({name: layer.mask(self.net.level).clone() for name, layer in layers.items()})
        self.weights.append({name: layer.weight.detach().clone() for name, layer in layers.items()})
        return F.cross_entropy(outputs, targets)

    def dense_layers(self, step: int) -> list[str]:
        return [name for name, mask in self.masks[step].items() if mask.all()]


def searched(schedule: Gap, net: NestedModel, **options: Any) -> Record:
    record = Record(net)
    torch.manual_seed(11)
    train(net, batches, record.loss_fn, CONFIG, schedule=schedule, nesting=SEARCH_ONLY, **options)
    return record


def equal_parts(sizes: dict[str, int], count: int) -> list[list[str]]:
    """The cut of the layers into parts with the least sum of squares, found by trying all."""
    names = list(sizes)
    ways = []
    for cuts in itertools.combinations(range(1, len(names)), count - 1):
        bounds = [0, *cuts, len(names)]
        ways.append([names[begin:end] for begin, end in itertools.pairwise(bounds)])
    return min(ways, key=lambda way: sum(sum(sizes[name] for name in part) ** 2 for part in way))


def kept(mask: Tensor) -> int:
    return int(mask.sum())


@pytest.mark.parametrize(
    ("pattern", "budget", "start"),
    [
        ("unstructured", "uniform", "magnitude"),
        ("unstructured", "global", "magnitude"),
        ("block4x1", "uniform", "random"),
        ("gs8x1", "uniform", "magnitude"),
        ("channel", "uniform", "random"),
    ],
)
def test_one_part_is_dense_all_others_are_at_their_target(pattern: str, budget: str, start: str) -> None:
    """It holds at every step; parts are dense in turn, for equal times, `rounds` times each; the end is exact."""
    net = nested(pattern=pattern, budget=budget)
    # what nest keeps in one shot of the same weights: target of every layer
    target = {name: kept(layer.mask(0)) for name, layer in net.nested_layers().items()}
    if pattern == "unstructured" and budget == "uniform":
        assert target == {name: math.floor(0.2 * size + 0.5) for name, size in SIZES.items()}
    record = searched(Gap(partitions=3, rounds=2, start=start), net)
    parts = equal_parts(SIZES, 3)
    assert parts == [["0", "3"], ["6"], ["9", "11"]]
    assert len(record.masks) == 12
    for step, masks in enumerate(record.masks):
        dense = parts[step // 2 % 3]
        assert record.dense_layers(step) == dense
        assert {name: kept(mask) for name, mask in masks.items() if name not in dense} == {
            name: count for name, count in target.items() if name not in dense
        }
    assert {name: kept(layer.mask(0)) for name, layer in net.nested_layers().items()} == target
    assert all(layer.mask(1)[layer.mask(0)].all() for layer in net.nested_layers().values())


def test_global_targets_are_one_ranking_of_the_start() -> None:
    """Under "global" each layer always keeps its number of the largest weights of the untrained net."""
    net = nested(budget="global")
    pooled = torch.cat([layer.weight.detach().abs().flatten() for layer in net.nested_layers().values()])
    threshold = pooled.sort(descending=True).values[math.floor(0.2 * len(pooled) + 0.5) - 1]
    target = {name: kept(layer.weight.abs() >= threshold) for name, layer in net.nested_layers().items()}
    searched(Gap(partitions=2), net)
    assert {name: kept(layer.mask(0)) for name, layer in net.nested_layers().items()} == target


def test_dropped_weights_start_from_zero_when_their_part_grows() -> None:
    """Kept weights do not; until then the dropped ones have their last values."""
    record = searched(Gap(partitions=4, rounds=3), nested())
    steps = range(1, 12)  # one batch each
    for step in steps:
        for name in record.dense_layers(step):
            mask, before, now = record.masks[step - 1][name], record.weights[step - 1][name], record.weights[step][name]
            assert (before[~mask] != 0).any()
            assert (now[~mask] == 0).all()
            assert (now[mask] != 0).all()


def test_a_part_is_pruned_by_the_magnitudes_it_has_grown_to() -> None:
    """The largest of each tensor stay; in parts that are not dense, masks and dropped values stay."""
    record = searched(Gap(partitions=3, rounds=2), nested())
    for step in range(1, 12):
        weights, masks = record.weights[step], record.masks[step]
        if record.dense_layers(step) == record.dense_layers(step - 1):
            continue
        for name in record.dense_layers(step - 1):
            count = math.floor(0.2 * SIZES[name] + 0.5)
            largest = weights[name].abs().flatten().topk(count).indices
            assert sorted(masks[name].flatten().nonzero().flatten().tolist()) == sorted(largest.tolist())
            assert (weights[name][~masks[name]] != 0).any()
    for step in range(1, 12):
        for name in set(SIZES) - set(record.dense_layers(step)) - set(record.dense_layers(step - 1)):
            mask = record.masks[step][name]
            assert torch.equal(mask, record.masks[step - 1][name])
            assert torch.equal(record.weights[step][name][~mask], record.weights[step - 1][name][~mask])


def test_learning_rate_and_optimizer_start_anew_at_each_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rate falls from its peak in each of the six steps, with a new optimizer."""
    made: list[torch.optim.Optimizer] = []
    seen: list[tuple[int, float, bool]] = []
    train_module = importlib.import_module("nested_sparse.trainer.training_run")
    make = train_module.make_optimizer

    def watched(*arguments: Any) -> torch.optim.Optimizer:
        made.append(make(*arguments))
        return made[-1]

    monkeypatch.setattr(train_module, "make_optimizer", watched)

    def loss_fn(outputs: Tensor, targets: Tensor) -> Tensor:
        seen.append((len(made), made[-1].param_groups[0]["lr"], bool(made[-1].state)))
        return F.cross_entropy(outputs, targets)

    net = nested()
    train(net, batches, loss_fn, CONFIG, schedule=Gap(partitions=3, rounds=2), nesting=SEARCH_ONLY)
    firsts, seconds = seen[0::2], seen[1::2]
    assert [number for number, _, _ in firsts] == [number for number, _, _ in seconds]
    assert len({number for number, _, _ in firsts}) == 6
    assert all(rate == CONFIG.lr and not started for _, rate, started in firsts)
    assert all(rate == pytest.approx(CONFIG.lr / 2) and started for _, rate, started in seconds)


@pytest.mark.parametrize("pattern", ["unstructured", "block4x1", "gs8x1", "channel"])
@pytest.mark.parametrize("start", ["magnitude", "random"])
def test_searches_above_leave_frozen_levels_alone(pattern: str, start: str) -> None:
    """A search of level 1 keeps level 0, bit for bit, in all parts; all levels end at their target."""
    net = nested(pattern=pattern, keep_dense=("11",))
    target = [{name: kept(layer.mask(level)) for name, layer in net.nested_layers().items()} for level in (0, 1)]
    record = Record(net)
    nesting = FreezeThenGrow(epochs_per_level=0, search_each=True)
    train(net, batches, record.loss_fn, CONFIG, schedule=Gap(partitions=2, start=start), nesting=nesting)
    assert record.levels == [0] * 12 + [1] * 12
    frozen = {name: layer.mask(0) for name, layer in net.nested_layers().items()}
    first = record.weights[12]
    for masks, weights in zip(record.masks[12:], record.weights[12:], strict=True):
        for name, mask in frozen.items():
            assert masks[name][mask].all()
            assert torch.equal(weights[name][mask], first[name][mask])
    for level, counts in enumerate(target):
        assert {name: kept(layer.mask(level)) for name, layer in net.nested_layers().items()} == counts
    whole = {name for name, count in target[1].items() if count == SIZES[name]}  # "11", and with channels also "0"
    dense = [set(record.dense_layers(step)) - whole for step in range(12, 24)]
    assert dense == [{"0", "3", "6"} - whole] * 6 + [{"9"}] * 6


def test_random_masks_are_drawn_from_scratch() -> None:
    """start="random" needs no trained net; its first masks are not the largest, and differ by seed."""
    assert Gap(start="random").from_scratch
    assert not Gap().from_scratch
    by_magnitude = searched(Gap(), nested()).masks[0]["9"]
    drawn = [searched(Gap(start="random"), nested()).masks[0]["9"] for _ in range(2)]
    assert torch.equal(drawn[0], drawn[1])
    overlap = kept(drawn[0] & by_magnitude) / kept(by_magnitude)
    assert overlap == pytest.approx(0.2, abs=0.05)  # what chance gives at this density
    record = Record(net := nested())
    torch.manual_seed(12)
    train(net, batches, record.loss_fn, CONFIG, schedule=Gap(start="random"), nesting=SEARCH_ONLY)
    assert not torch.equal(record.masks[0]["9"], drawn[0])


@pytest.mark.parametrize("stop_after", [1, 2, 3])
def test_resumed_search_equals_uninterrupted(tmp_path: Path, stop_after: int) -> None:
    """A run stopped within a step, or at the search's end, ends with the same bits."""
    schedule, nesting = Gap(partitions=2, start="random"), FreezeThenGrow(epochs_per_level=1)
    fit = partial(train, batches=batches, loss_fn=F.cross_entropy, config=CONFIG, schedule=schedule, nesting=nesting)
    assert_goes_on(fit, tmp_path / "run.state", stop_after, nested)


def test_parallel_alone_is_cyclic() -> None:
    """With one process parallel=True has no effect."""
    cyclic, alone = nested(), nested()
    searched(Gap(partitions=3), cyclic)
    searched(Gap(partitions=3, parallel=True), alone)
    assert all(torch.equal(snapshot(alone)[key], value) for key, value in snapshot(cyclic).items())


def test_layers_that_share_a_weight_grow_together() -> None:
    """They count once in the sizes, and are dense at the same time."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 3))
    model[2].weight = model[1].weight
    record = searched(Gap(partitions=2), nest(model, densities=(0.25,)))
    assert [record.dense_layers(step) for step in (0, 6)] == [["1", "2"], ["3"]]


def test_weights_that_are_not_trained_are_not_reset() -> None:
    """A weight without requires_grad could not grow again from zero."""
    model = deep_net()
    model[9].weight.requires_grad_(False)
    before = model[9].weight.clone()
    net = nest(model, densities=(0.2,))
    searched(Gap(partitions=2, rounds=2), net)
    assert torch.equal(net.nested_layers()["9"].weight, before)


def test_wrong_settings_are_errors() -> None:
    """Each error names the field, also for more parts than layers and fewer batches than steps."""
    assert SCHEDULES["gap"] is Gap
    wrong = {"partitions": 0, "rounds": 1.5, "parallel": 1, "start": "zero"}
    for name, value in wrong.items():
        with pytest.raises(TrainingError, match=f"Gap.{name}: expected"):
            Gap(**{name: value})  # type: ignore[arg-type]
    with pytest.raises(TrainingError, match=r"Gap\.partitions: expected at most 5, a layer for each, got 6"):
        searched(Gap(partitions=6), nested())
    with pytest.raises(
        TrainingError, match=r"Gap has 24 steps .* no batch for step 2; raise TrainConfig.search_epochs"
    ):
        searched(Gap(partitions=4, rounds=6), nested())


def test_channels_of_different_parts_end_together() -> None:
    """In the end each layer reads exactly the channels that the layer before it writes."""
    torch.manual_seed(0)
    net = nest(DigitNet(width=8), densities=(0.3, 0.6), pattern="channel", keep_dense=("stem", "fc"))
    batches = [(torch.randn(4, 1, 8, 8), torch.randint(0, 10, (4,))) for _ in range(4)]
    config = TrainConfig(dense_epochs=0, search_epochs=2, distill_weight=0, recalibration_samples=0)
    schedule, nesting = Gap(partitions=4), FreezeThenGrow(0)
    train(net, lambda epoch: batches, F.cross_entropy, config, schedule=schedule, nesting=nesting)
    layers = net.nested_layers()
    assert not layers["stage3.1.conv1"].mask(0).all()
    for stage in ("stage1.0", "stage2.0", "stage3.1"):
        for level in range(2):
            rows = layers[f"{stage}.conv1"].mask(level).flatten(1).any(dim=1)
            read = layers[f"{stage}.conv2"].mask(level).any(dim=0).flatten(1).any(dim=1)
            assert torch.equal(rows, read)
