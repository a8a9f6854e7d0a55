"""Interleaved: the drawn levels, their losses and gradients, the masks of all levels, one annealing, resumed runs."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from small_models import assert_goes_on, nested_small_net, small_batches, snapshot
from torch import Tensor, nn

from nested_sparse.errors import TrainingError
from nested_sparse.trainer import (
    Gradual,
    Interleaved,
    NestedModel,
    OneShot,
    RigL,
    TrainConfig,
    accuracy_per_level,
    nest,
    train,
)
from nested_sparse.trainer.nestings.interleaved import InterleavedStage
from nested_sparse.trainer.progress import EpochReport
from nested_sparse.trainer.stage import Work

CONFIG = TrainConfig(dense_epochs=2, search_epochs=2, recalibration_samples=0)


def trained(net: NestedModel, nesting: Interleaved, config: TrainConfig = CONFIG, **options: Any) -> list[EpochReport]:
    torch.manual_seed(11)
    return list(train(net, small_batches(), F.cross_entropy, config, nesting=nesting, **options))


def levels_stage(net: NestedModel, **settings: Any) -> InterleavedStage:
    """The stage after its search, with readable gradients; dropout, which is random, is off."""
    net.eval()
    work = Work(net, TrainConfig(dense_epochs=0, search_epochs=0, distill_temperature=2.0), F.cross_entropy)
    stage = InterleavedStage(work, Interleaved(epochs=1, **settings), 1.0)
    stage.begin()
    assert stage.before_step(0.0, update=False)
    return stage


def gradients(net: nn.Module) -> dict[str, Tensor]:
    return {name: torch.zeros_like(p) if p.grad is None else p.grad.clone() for name, p in net.named_parameters()}


@pytest.mark.parametrize(
    ("shares", "expected"),
    [((), (0.3125, 0.25, 0.4375)), ((2.0, 1.0, 1.0), (0.5, 0.25, 0.25)), ((1, 1, 1), (1 / 3,) * 3)],
)
def test_levels_are_drawn_by_their_shares(shares: tuple[float, ...], expected: tuple[float, ...]) -> None:
    """Each step trains one level; over 1000 steps the counts lie within five standard deviations of the shares."""
    net = nest(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), densities=(0.1, 0.3, 0.8))
    stage = levels_stage(net, shares=shares, soft_weight=0.0)
    x, labels = next(iter(small_batches()(0)))
    torch.manual_seed(0)
    drawn = [name for _ in range(1000) for name in stage.losses(x, labels, lambda loss: None)]
    assert len(drawn) == 1000
    for level, share in enumerate(expected):
        assert abs(drawn.count(str(level)) - 1000 * share) <= 5 * (1000 * share * (1 - share)) ** 0.5


@pytest.mark.parametrize("soft_weight", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("inner_gradient", [0.0, 0.25, 1.0])
def test_a_step_follows_the_loss_of_its_level(soft_weight: float, inner_gradient: float) -> None:
    """Loss and gradients equal plain torch, scaled where sparser levels share the weight."""
    net = nested_small_net()
    stage = levels_stage(net, soft_weight=soft_weight, inner_gradient=inner_gradient)
    x, labels = next(iter(small_batches()(0)))
    seen = set()
    torch.manual_seed(1)
    for _ in range(20):
        twin = copy.deepcopy(net)
        net.zero_grad()
        ((name, got),) = stage.losses(x, labels, lambda loss: loss.backward()).items()
        stage.after_backward(0.0, update=False)
        level = int(name)
        seen.add(level)
        twin.zero_grad()
        twin.set_level(2)
        teacher = torch.softmax(twin(x).detach() / 2.0, 1)
        twin.set_level(level)
        logits = twin(x)
        loss = F.cross_entropy(logits, labels)
        if level < 2:
            soft = (teacher * (teacher.log() - torch.log_softmax(logits / 2.0, 1))).sum(1).mean()
            loss = (1 - soft_weight) * loss + soft_weight * 4.0 * soft
        loss.backward()
        torch.testing.assert_close(got, loss.detach(), rtol=1e-4, atol=1e-5)
        wanted = gradients(twin)
        for layer_name, layer in twin.nested_layers().items():
            if level and not layer.dense:
                wanted[f"model.{layer_name}.weight"][layer.mask(level - 1)] *= inner_gradient
        for key, value in gradients(net).items():
            torch.testing.assert_close(value, wanted[key], rtol=1e-3, atol=1e-5)
    assert seen == {0, 1, 2}


@pytest.mark.parametrize("schedule", [Gradual(), Gradual(end=0.5), OneShot()])
def test_masks_of_all_levels_fall_together(schedule: Gradual | OneShot) -> None:
    """All levels are whole in the dense part, nested at every moment, and at their densities after the search."""
    net, densities = nested_small_net(), list[list[float]]()
    target = [net.density(level) for level in range(3)]
    config = TrainConfig(dense_epochs=2, search_epochs=3, masks_per_epoch=3, recalibration_samples=0)

    def watch(report: EpochReport) -> None:
        densities.append([net.density(level) for level in range(3)])
        for layer in net.nested_layers().values():
            assert not (layer.mask(0) & ~layer.mask(1)).any()
            assert not (layer.mask(1) & ~layer.mask(2)).any()

    reports = trained(net, Interleaved(epochs=2), config, schedule=schedule, on_progress=watch)
    assert densities[:2] == [[1.0] * 3] * 2
    falling = [each[0] for each in densities[2:]]
    assert falling == sorted(falling, reverse=True)
    if schedule == Gradual():
        assert densities[2][0] > densities[3][0] > target[0]
    else:
        assert densities[4] == target
    assert densities[5] == densities[6] == target
    assert [set(report.losses) for report in reports[:2]] == [{"dense"}] * 2
    assert set().union(*(report.losses for report in reports[2:])) == {"0", "1", "2"}


@pytest.mark.parametrize(
    ("pattern", "budget"), [("channel", "uniform"), ("channel", "global"), ("gs8x1", "erk"), ("unstructured", "global")]
)
def test_every_pattern_and_budget(pattern: str, budget: str) -> None:
    """The levels end nested and at their densities, whichever pattern and budget the net has."""
    net = nested_small_net(pattern=pattern, budget=budget, densities=(0.1, 0.3, 0.6), keep_dense=("0",))
    target = [net.density(level) for level in range(3)]
    trained(net, Interleaved(epochs=1))
    tolerance = 0.1 if pattern == "channel" else 0.01  # a channel of one layer has more weights than one of another
    assert [net.density(level) for level in range(3)] == pytest.approx(target, abs=tolerance)
    for layer in net.nested_layers().values():
        assert not (layer.mask(0) & ~layer.mask(1)).any()
        assert not (layer.mask(1) & ~layer.mask(2)).any()


def test_the_learning_rate_falls_once() -> None:
    """From the peak at the start of the dense part to nearly 0 at the end, without a second rise."""
    rates = [report.learning_rate for report in trained(nested_small_net(), Interleaved(epochs=4))]
    assert len(rates) == 8
    assert rates == sorted(rates, reverse=True)
    assert rates[0] > 0.8 * CONFIG.lr
    assert rates[-1] < 0.05 * CONFIG.lr


def test_every_level_learns_and_dropped_weights_stay() -> None:
    """All levels learn an easy task; weights that no level keeps stay, bit for bit, once the masks are final."""
    net, kept = nested_small_net(), dict[int, dict[str, Tensor]]()
    config = TrainConfig(dense_epochs=4, search_epochs=4, recalibration_samples=48)
    nesting = Interleaved(epochs=12)
    trained(net, nesting, config, on_progress=lambda report: kept.update({report.done_epochs: snapshot(net)}))
    assert min(accuracy_per_level(net, small_batches()(0))) > 0.8
    for name, layer in net.nested_layers().items():
        dropped, key = ~layer.mask(2), f"model.{name}.weight"
        assert dropped.any()
        assert torch.equal(kept[9][key][dropped], layer.weight[dropped])
        assert not torch.equal(kept[9][key][layer.mask(0)], layer.weight[layer.mask(0)])
    norms = next(iter(net.level_norms().values())).norms
    assert not torch.equal(norms[0].running_mean, norms[2].running_mean)  # type: ignore[arg-type]


@pytest.mark.parametrize(("dense", "search", "epochs"), [(0, 1, 1), (1, 0, 1), (1, 1, 0), (0, 0, 1), (2, 0, 0)])
def test_any_part_may_be_missing(dense: int, search: int, epochs: int) -> None:
    """The levels end at their densities, with norms of their own, whichever part has no epochs."""
    net = nested_small_net()
    target = [net.density(level) for level in range(3)]
    config = TrainConfig(dense_epochs=dense, search_epochs=search, recalibration_samples=0)
    assert len(trained(net, Interleaved(epochs=epochs), config)) == dense + search + epochs
    assert [net.density(level) for level in range(3)] == target
    for norm in net.level_norms().values():
        assert norm.norms[0].running_var.ne(1).any()  # type: ignore[union-attr]
        assert norm.norms[2].running_var.ne(1).any()  # type: ignore[union-attr]


@pytest.mark.parametrize("stop_after", [1, 2, 3, 5])
def test_resumed_run_equals_uninterrupted(tmp_path: Path, stop_after: int) -> None:
    """A run that is stopped in the dense part, the search or after it ends in the same bits."""

    def fit(net: NestedModel, **options: Any) -> None:
        train(net, small_batches(), F.cross_entropy, CONFIG, nesting=Interleaved(epochs=2), **options)

    assert_goes_on(fit, tmp_path / "run.state", stop_after)


def test_rows_are_shuffled_before_the_search() -> None:
    """A net with row_shuffle gets its permutation from the weights that the dense part has trained."""
    net = nested_small_net(row_shuffle=True)
    before = {name: layer.permutation.clone() for name, layer in net.nested_layers().items()}  # type: ignore[union-attr]
    trained(net, Interleaved(epochs=1))
    after = {name: layer.permutation for name, layer in net.nested_layers().items()}
    assert any(not torch.equal(before[name], after[name]) for name in before)  # type: ignore[arg-type]


def test_schedules_of_one_level_are_refused() -> None:
    """A schedule that finds the masks of one level alone is refused before the first batch."""
    with pytest.raises(TrainingError, match=r"^schedule: Interleaved .*expected Gradual or OneShot, got RigL"):
        trained(nested_small_net(), Interleaved(), schedule=RigL())


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"epochs": -1}, "epochs"),
        ({"shares": (0.5, 0.0, 0.5)}, "shares"),
        ({"shares": [0.5, 0.5]}, "shares"),
        ({"shares": (float("inf"), 1.0)}, "shares"),
        ({"shares": (1e308, 1e308)}, "shares"),
        ({"soft_weight": 1.5}, "soft_weight"),
        ({"inner_gradient": -0.1}, "inner_gradient"),
    ],
)
def test_settings_out_of_range(settings: dict[str, Any], said: str) -> None:
    """Settings are checked when they are made."""
    with pytest.raises(TrainingError, match=rf"\b{said}\b"):
        Interleaved(**settings)


def test_shares_are_one_per_level() -> None:
    """A number of shares other than the net's levels is refused before the first batch."""
    with pytest.raises(TrainingError, match=r"shares.*one per level, 3 of them"):
        trained(nested_small_net(), Interleaved(shares=(0.5, 0.5)))


def test_soft_labels_need_logits() -> None:
    """A model without logits is refused at the first batch, not hours later; without soft labels it trains."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3), nn.Flatten(0))
    net = nest(model, densities=(0.1, 0.5))

    def loss(outputs: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(outputs.view(-1, 3), labels)

    with pytest.raises(TrainingError, match="soft labels need a model that answers with its logits"):
        train(net, small_batches(), loss, CONFIG, nesting=Interleaved(epochs=1))
    train(net, small_batches(), loss, CONFIG, nesting=Interleaved(epochs=1, soft_weight=0.0))
