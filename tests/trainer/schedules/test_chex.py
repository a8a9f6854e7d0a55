"""CHEX: compared with the definitions of arXiv:2203.15794."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_models import assert_goes_on, snapshot
from torch import Tensor, nn

from nested_sparse.coupled import ChannelGroup
from nested_sparse.errors import TrainingError
from nested_sparse.trainer import Chex, FreezeThenGrow, NestedModel, TrainConfig, nest, train
from nested_sparse.trainer.schedules import SCHEDULES
from nested_sparse.trainer.schedules.chex import drawn_order
from nested_sparse.trainer.zoo import DigitNet, ResidualBlock

DENSITIES = (0.1, 0.5)


def net_of(**options: object) -> NestedModel:
    """A residual net with small groups, at its sparsest level."""
    torch.manual_seed(3)
    arguments: dict[str, object] = {"densities": DENSITIES, "pattern": "channel", **options}
    net = nest(DigitNet(width=8), **arguments)  # type: ignore[arg-type]
    net.set_level(0)
    return net


def kept_channels(net: NestedModel, level: int = 0) -> dict[ChannelGroup, Tensor]:
    """(C,) channels that `level` keeps of each group that may be dropped, the same in all members."""
    assert net.coupling is not None
    layers, found = net.nested_layers(), {}
    for group in net.coupling.groups:
        if group.whole:
            continue
        masks = [layers[name].mask(level).flatten(1).any(1) for name in group.producers]
        for name in group.consumers:
            columns = layers[name].mask(level).flatten(1).any(0)
            masks.append(columns.reshape(group.channels, -1).any(1))
            assert torch.equal(columns, masks[-1].repeat_interleave(columns.numel() // group.channels))
        assert all(torch.equal(mask, masks[0]) for mask in masks)
        found[group] = masks[0]
    return found


def norm_values(net: NestedModel, group: ChannelGroup, level: int = 0) -> list[Tensor]:
    """Affine and statistics of the group's norms."""
    norms = [net.level_norms()[name].norms[level] for name in group.norms]
    names = ("weight", "bias", "running_mean", "running_var")
    return [getattr(norm, name).detach() for norm in norms for name in names]


def scramble(net: NestedModel, seed: int) -> None:
    """Replace training: set other values for all norms."""
    generator = torch.Generator().manual_seed(seed)
    for group in kept_channels(net):
        for value in norm_values(net, group):
            value.copy_(torch.rand(value.shape, generator=generator) + 0.1)


def test_the_share_that_comes_back_follows_the_cosine() -> None:
    """Density = target + r0 (1 + cos(pi t / T)) / 2 at every update; from T on the target, and masks stay."""
    net = net_of()
    search = Chex(regrow=0.4, end=0.8, updates=4).search(net, 0, 0.1)
    search.begin()
    assert net.density(0) == pytest.approx(0.5, abs=0.02)
    updates = []
    for step in range(20):
        progress = step / 20
        before = snapshot(net)
        assert not search.before_step(progress, update=False)
        if search.before_step(progress, update=True):
            updates.append(progress)
            expected = 0.1 + 0.4 * (1 + math.cos(math.pi * progress / 0.8)) / 2 if progress < 0.8 else 0.1
            assert net.density(0) == pytest.approx(expected, abs=0.02)
        else:
            assert all(torch.equal(value, before[key]) for key, value in snapshot(net).items())
    assert updates == [0.2, 0.4, 0.6, 0.8]
    before = snapshot(net)
    search.end()
    assert all(torch.equal(value, before[key]) for key, value in snapshot(net).items())
    kept_channels(net)


def test_the_first_masks_are_the_largest_by_magnitude() -> None:
    """The masks are by L1, as in nest(), at the target plus the share to regrow."""
    net, expected = net_of(), net_of(densities=(0.4, 0.5))
    Chex(regrow=0.3).search(net, 0, 0.1).begin()
    masks = [layer.mask(0) for layer in expected.nested_layers().values()]
    assert all(
        torch.equal(layer.mask(0), mask) for layer, mask in zip(net.nested_layers().values(), masks, strict=True)
    )


def scores_by_eigenvectors(net: NestedModel, group: ChannelGroup, active: dict[str, Tensor], keep: int) -> Tensor:
    """The leverage of each channel in every producer's active weights, summed."""
    total = torch.zeros(group.channels, dtype=torch.float64)
    for name in group.producers:
        matrix = active[name].flatten(1).double().T
        if matrix.shape[0] < matrix.shape[1]:
            l1 = matrix.abs().sum(0)
            total += l1 * (keep / l1.square().sum()).sqrt()
            continue
        values, vectors = torch.linalg.eigh(matrix.T @ matrix)
        top = vectors[:, values.argsort(descending=True)[: min(keep, int((values > 1e-9 * values.max()).sum()))]]
        total += top.norm(dim=1)
    return total


def test_the_highest_leverage_is_kept() -> None:
    """At the end every group keeps the best active channels, by leverage summed over the layers that write them."""
    net = net_of()
    search = Chex(regrow=0.4).search(net, 0, 0.1)
    search.begin()
    assert search.before_step(0.3, update=True)
    active = {name: layer.masked_weight(0).detach() for name, layer in net.nested_layers().items()}
    before = kept_channels(net)
    search.end()
    after = kept_channels(net)
    assert sum(int(mask.sum()) for mask in after.values()) < sum(int(mask.sum()) for mask in before.values())
    for group, mask in after.items():
        scores = scores_by_eigenvectors(net, group, active, int(mask.sum()))
        assert scores[mask].min() >= scores[~mask].max() - 1e-9


def test_what_comes_back_is_drawn_by_the_softmax() -> None:
    """Without replacement: the first by the softmax, the second by that of those left."""
    torch.manual_seed(0)
    logits = np.array([0.0, 1.0, 2.0, -1.0])
    chances = np.exp(logits) / np.exp(logits).sum()
    draws = np.array([drawn_order(logits) for _ in range(6000)])
    assert (np.sort(draws, axis=1) == np.arange(4)).all()
    np.testing.assert_allclose(np.bincount(draws[:, 0], minlength=4) / 6000, chances, atol=0.02)
    second = draws[draws[:, 0] == 2, 1]
    left = np.where(np.arange(4) == 2, 0, chances)
    np.testing.assert_allclose(np.bincount(second, minlength=4) / len(second), left / left.sum(), atol=0.025)


def test_channels_come_back_as_they_were() -> None:
    """Weights are untouched; norms of what comes back are those of when it was dropped, others stay as trained."""
    net = net_of()
    with torch.no_grad():
        scramble(net, 1)
        search = Chex(regrow=0.3, updates=40).search(net, 0, 0.1)
        search.begin()
        last = {group: [value.clone() for value in norm_values(net, group)] for group in kept_channels(net)}
        came_back = 0
        for update in range(1, 20):
            before = kept_channels(net)
            scramble(net, 10 + update)  # training moves the norms of kept channels; those of dropped ones drift
            trained = {group: [value.clone() for value in norm_values(net, group)] for group in before}
            weights = {name: layer.weight.clone() for name, layer in net.nested_layers().items()}
            assert search.before_step(0.72 * update / 40, update=True)
            assert all(torch.equal(layer.weight, weights[name]) for name, layer in net.nested_layers().items())
            for group, after in kept_channels(net).items():
                back = after & ~before[group]
                came_back += int(back.sum())
                for value, old, new in zip(norm_values(net, group), last[group], trained[group], strict=True):
                    old[before[group]] = new[before[group]]
                    assert torch.equal(value[back], old[back])
                    assert torch.equal(value[~back], new[~back])
        assert came_back > 20


def test_biases_come_back_as_they_were() -> None:
    """They are a row per level, which momentum may move while a channel is dropped."""
    torch.manual_seed(0)
    layers = [nn.Conv1d(3, 24, 3), nn.ReLU(), nn.Conv1d(24, 3, 3)]
    net = nest(nn.Sequential(*layers), densities=(0.2,), pattern="channel")
    search = Chex(regrow=0.4, updates=40).search(net, 0, 0.2)
    search.begin()
    bias = net.nested_layers()["0"].bias
    assert bias is not None
    old = bias.detach().clone()
    back = 0
    for update in range(1, 20):
        before = net.nested_layers()["0"].mask(0).flatten(1).any(1)
        with torch.no_grad():
            bias[0, ~before] += 1
        search.before_step(0.72 * update / 40, update=True)
        after = net.nested_layers()["0"].mask(0).flatten(1).any(1)
        assert torch.equal(bias[0, after], old[0, after])
        back += int((after & ~before).sum())
    assert back


def test_global_counts_follow_one_threshold_on_the_norms_scales() -> None:
    """A group whose scales are small keeps its least step; the others share what is left, by their own scales."""
    net = net_of(budget="global")
    with torch.no_grad():
        generator = torch.Generator().manual_seed(2)
        for norms in net.level_norms().values():
            norms.norms[0].weight.copy_(torch.rand(norms.norms[0].weight.shape, generator=generator) + 1)  # type: ignore[operator, arg-type]
        net.level_norms()["stage2.0.bn1"].norms[0].weight.mul_(0.01)  # type: ignore[operator]
    search = Chex(regrow=0.2).search(net, 0, 0.4)
    search.begin()
    search.end()
    kept = kept_channels(net)
    (small,) = (group for group in kept if group.producers == ("stage2.0.conv1",))
    assert int(kept[small].sum()) == 4
    steps, gone = [], []
    for group, mask in kept.items():
        scales = torch.stack([net.level_norms()[name].norms[0].weight.abs() for name in group.norms]).mean(0)
        means = scales.sort(descending=True).values.reshape(-1, 4).mean(1).tolist()
        steps += means[1 : int(mask.sum()) // 4]
        gone += means[int(mask.sum()) // 4 :]
    assert min(steps) >= max(gone)
    assert net.density(0) == pytest.approx(0.4, abs=0.03)


def batches(epoch: int) -> list[tuple[Tensor, Tensor]]:
    """Four of noise."""
    generator = torch.Generator().manual_seed(epoch)
    images = torch.randn(4, 8, 1, 8, 8, generator=generator)
    return [(image, torch.randint(0, 3, (8,), generator=generator)) for image in images]


def small_net(budget: str = "uniform") -> NestedModel:
    """A stem, a block with a projection, a classifier."""
    torch.manual_seed(6)
    stem = [nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU()]
    model = nn.Sequential(*stem, ResidualBlock(8, 24, 2), nn.Flatten(), nn.Linear(24 * 16, 3))
    return nest(model, densities=(0.15, 0.4, 0.8), pattern="channel", budget=budget)


CONFIG = TrainConfig(dense_epochs=0, search_epochs=2, lr=0.02, recalibration_samples=0)
NESTING = FreezeThenGrow(epochs_per_level=1, search_each=True)


@pytest.mark.parametrize("budget", ["uniform", "global"])
def test_levels_nest_and_have_their_density(budget: str) -> None:
    """With a search for every level: masks found for a lower level stay, and all members of a group agree."""
    net, found = small_net(budget), dict[str, dict[str, Tensor]]()

    def remember(report: Any) -> None:
        level = int(report.stage.split()[-1])
        if report.stage.startswith("level"):
            found[report.stage] = {name: layer.mask(level).clone() for name, layer in net.nested_layers().items()}

    torch.manual_seed(1)
    schedule = Chex(regrow=0.15, updates=4)
    train(net, batches, F.cross_entropy, CONFIG, schedule=schedule, nesting=NESTING, on_progress=remember)
    sparse = [layer for layer in net.nested_layers().values() if not layer.dense]
    for level, density in enumerate(net.densities):
        kept_channels(net, level)
        for name, layer in net.nested_layers().items():
            assert torch.equal(layer.mask(level), found[f"level {level}"][name])
            assert level == 0 or bool((layer.mask(level - 1) <= layer.mask(level)).all())
        kept = sum(int(layer.mask(level).sum()) for layer in sparse) / sum(layer.weight.numel() for layer in sparse)
        assert kept == pytest.approx(density, abs=0.08)


@pytest.mark.parametrize("stop", [1, 4])
def test_a_resumed_run_is_bit_identical(tmp_path: Path, stop: int) -> None:
    """Random draws come from torch's generator, and the state contains the values of dropped channels."""
    schedule = Chex(regrow=0.4, updates=8)
    fit = partial(train, batches=batches, loss_fn=F.cross_entropy, config=CONFIG, schedule=schedule, nesting=NESTING)
    assert_goes_on(fit, tmp_path / "run.state", stop, small_net)


def test_nets_without_coupled_channels_are_refused() -> None:
    """By the pattern, or by the layer that was not followed; and settings out of range."""
    with pytest.raises(TrainingError, match="nest the model with pattern='channel', got 'block4x1'"):
        Chex().search(nest(DigitNet(width=8), densities=DENSITIES, pattern="block4x1"), 0, 0.1)

    class Branching(nn.Sequential):
        """Cannot be traced."""

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = super().forward(x)
            return y if bool(y.sum() > 0) else -y

    net = nest(Branching(nn.Linear(4, 32), nn.Linear(32, 2)), densities=DENSITIES, pattern="channel")
    with pytest.raises(TrainingError, match=r"does not of 2, '0' among them: the model cannot be traced .*keep_dense"):
        Chex().search(net, 0, 0.1)
    for settings in ({"regrow": 1.5}, {"end": -0.1}, {"updates": 0}):
        with pytest.raises(TrainingError, match=f"Chex.{next(iter(settings))}"):
            Chex(**settings)  # type: ignore[arg-type]
    assert SCHEDULES["chex"] is Chex
