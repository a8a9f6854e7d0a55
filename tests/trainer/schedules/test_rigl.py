"""RigL: updates compared with the definition, random starts, resumed runs and settings."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_models import nested_small_net, small_batches, snapshot
from torch import Tensor, nn

from nested_sparse.errors import TrainingError
from nested_sparse.trainer import FreezeThenGrow, Joint, NestedModel, RigL, TrainConfig, nest, train
from nested_sparse.trainer.nestings import Nesting

CONFIG = TrainConfig(dense_epochs=0, search_epochs=4, distill_weight=0, recalibration_samples=48)


def dense_gradient(weight: Tensor, mask: Tensor, x: Tensor, labels: Tensor) -> Tensor:
    """The gradient that a plain linear net with the masked weight has at every weight."""
    masked = (weight.detach() * mask).requires_grad_()
    F.cross_entropy(x @ masked.T, labels).backward()
    assert masked.grad is not None
    return masked.grad


@pytest.mark.parametrize(("pattern", "rows"), [("unstructured", 1), ("block4x1", 4)])
@pytest.mark.parametrize("progress", [0.1, 0.5])
def test_an_update_follows_the_definition(pattern: str, rows: int, progress: float) -> None:
    """The cosine's share of the smallest is dropped; as many of the largest gradient grow, from zero."""
    torch.manual_seed(7)
    net = nest(nn.Sequential(nn.Linear(12, 16, bias=False)), densities=(0.25, 0.5), pattern=pattern)
    net.set_level(0)
    layer, settings = net.nested_layers()["0"], RigL(drop=0.4, end=0.8)
    search = settings.search(net, 0, 0.25)
    search.begin()
    x, labels = torch.randn(20, 12), torch.randint(0, 16, (20,))
    kept, weight = layer.mask(0).clone(), layer.weight.detach().clone()
    gradient = dense_gradient(weight, kept, x, labels)

    assert not search.before_step(progress, update=True)
    F.cross_entropy(net(x), labels).backward()
    torch.testing.assert_close(layer.weight.grad, gradient)
    search.after_backward(progress, update=True)
    assert layer.gradient == "kept"
    assert torch.equal(layer.mask(0), kept)
    assert search.before_step(progress, update=False)

    def blocks(values: Tensor) -> np.ndarray:  # type: ignore[type-arg]
        return values.abs().reshape(16 // rows, rows, 12).sum(1).numpy().reshape(-1)

    was_kept = blocks(kept.float()) > 0
    count = int(was_kept.sum())
    dropped = round(count * 0.4 / 2 * (1 + math.cos(math.pi * progress / 0.8)))
    assert dropped > 0
    order = [index for index in np.argsort(blocks(weight), kind="stable") if was_kept[index]]
    survivors = set(order[dropped:])
    candidates = [index for index in np.argsort(-blocks(gradient), kind="stable") if index not in survivors]
    expected = survivors | set(candidates[:dropped])
    got = set(np.flatnonzero(blocks(layer.mask(0).float())))
    assert got == expected
    assert len(got) == count
    new = layer.mask(0) & ~kept
    assert new.any()
    assert not layer.weight[new].any()
    assert torch.equal(layer.weight[~new], weight[~new])


def test_masks_stay_after_the_end() -> None:
    """There is no update at or after `end`, nor at the start, when nothing is trained."""
    net = nested_small_net()
    net.set_level(0)
    search = RigL(end=0.5).search(net, 0, 0.1)
    search.begin()
    for progress in (0.0, 0.5, 0.9):
        assert not search.before_step(progress, update=True)
        F.cross_entropy(net(torch.randn(4, 1, 8, 8)), torch.tensor([0, 1, 2, 0])).backward()
        search.after_backward(progress, update=True)
        assert not search.before_step(progress, update=False)


def test_random_start_is_random_and_has_the_density() -> None:
    """Masks differ by seed, hardly follow magnitude, and keep as many per layer as magnitude would."""
    net = nest(nn.Sequential(nn.Linear(200, 100)), densities=(0.2, 0.5), budget="global")
    layer, masks = net.nested_layers()["0"], []
    largest = layer.mask(0).clone()
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        RigL().search(net, 0, 0.2).begin()
        masks.append(layer.mask(0).clone())
        assert int(masks[-1].sum()) == 4000
        assert float((masks[-1] & largest).float().sum()) / 4000 == pytest.approx(0.2, abs=0.05)
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks[2])


@pytest.mark.parametrize("nesting", [FreezeThenGrow(1, search_each=True), Joint(epochs=1, search_level=-1)])
@pytest.mark.parametrize("pattern", ["unstructured", "block4x1", "gs8x1"])
@pytest.mark.parametrize("budget", ["uniform", "global"])
def test_counts_never_change_and_lower_levels_stay(pattern: str, nesting: Nesting, budget: str) -> None:
    """In every epoch each layer keeps the same number of weights; frozen levels stay bit for bit."""
    net = nested_small_net(pattern=pattern, keep_dense=("0",), budget=budget)
    seen: dict[str, list[list[int]]] = {}
    frozen: dict[int, dict[str, Tensor]] = {}

    def watch(report: object) -> None:
        stage = report.stage  # type: ignore[attr-defined]
        layers = net.nested_layers().values()
        if stage.startswith("search"):
            seen.setdefault(stage, []).append([int(layer.mask(net.level).sum()) for layer in layers])
        if stage.startswith("level"):
            frozen[net.level] = {layer.name: layer.masked_weight(net.level).detach().clone() for layer in layers}

    train(net, small_batches(), F.cross_entropy, CONFIG, schedule=RigL(), nesting=nesting, on_progress=watch)
    assert len(seen) == (3 if isinstance(nesting, FreezeThenGrow) else 1)
    for counts in seen.values():
        assert len(counts) == 4
        assert all(count == counts[0] for count in counts)
    for level, weights in frozen.items():
        for layer in net.nested_layers().values():
            assert torch.equal(layer.masked_weight(level), weights[layer.name])


def test_a_random_start_keeps_the_layer_counts_of_magnitude() -> None:
    """Under a global budget each layer has magnitude's number of weights, also above frozen levels."""

    def counts(schedule: RigL) -> list[int]:
        torch.manual_seed(3)
        net = nest(
            nn.Sequential(nn.Linear(40, 30), nn.ReLU(), nn.Linear(30, 20), nn.ReLU(), nn.Linear(20, 10)),
            densities=(0.1, 0.3),
            budget="global",
        )
        net.set_level(1)
        schedule.search(net, 1, 0.3).begin()
        return [int(layer.mask(1).sum()) for layer in net.nested_layers().values()]

    assert counts(RigL(start="random")) == counts(RigL(start="magnitude"))


def test_an_overflow_moves_no_masks() -> None:
    """Gradients that are not finite change no masks."""
    net = nested_small_net()
    net.set_level(0)
    search = RigL().search(net, 0, 0.1)
    search.begin()
    search.before_step(0.2, update=True)
    (net(torch.randn(4, 1, 8, 8)).sum() * float("inf")).backward()
    search.after_backward(0.2, update=True)
    assert not search.before_step(0.2, update=False)


def test_masks_move_in_training() -> None:
    """During a search some weights of the first masks are replaced by others."""
    net, masks = nested_small_net(), []
    train(
        net,
        small_batches(),
        F.cross_entropy,
        CONFIG,
        schedule=RigL(),
        nesting=FreezeThenGrow(0),
        on_progress=lambda report: masks.append(net.nested_layers()["9"].mask(0).clone()),
    )
    assert not torch.equal(masks[0], masks[2])


class KilledError(Exception):
    """Stops a run as a signal does."""


@pytest.mark.parametrize("stop_after", [1, 2, 3])
def test_resumed_run_equals_uninterrupted(tmp_path: Path, stop_after: int) -> None:
    """A run stopped after an epoch whose last step chose masks ends with the same bits."""
    config = TrainConfig(dense_epochs=0, search_epochs=4, distill_weight=0, masks_per_epoch=3)  # an update every step

    def run(net: NestedModel, stop: int = 0, state: Path | None = None) -> dict[str, Tensor]:
        def stop_there(report: object) -> None:
            if report.done_epochs == stop:  # type: ignore[attr-defined]
                raise KilledError

        torch.manual_seed(4)
        options = {"schedule": RigL(end=1.0), "nesting": FreezeThenGrow(1)}
        train(net, small_batches(), F.cross_entropy, config, **options, state_path=state, on_progress=stop_there)  # type: ignore[arg-type]
        return snapshot(net)

    whole, state = run(nested_small_net()), tmp_path / "run.state"
    with pytest.raises(KilledError):
        run(nested_small_net(), stop_after, state)
    resumed = run(nested_small_net(), 0, state)
    assert all(torch.equal(resumed[key], value) for key, value in whole.items())


def test_channels_are_refused() -> None:
    """RigL's error names the schedule for channels."""
    net = nested_small_net(pattern="channel")
    with pytest.raises(TrainingError, match="Chex"):
        train(net, small_batches(), F.cross_entropy, CONFIG, schedule=RigL())


@pytest.mark.parametrize(("field", "value"), [("start", "ones"), ("drop", 1.5), ("end", -0.1)])
def test_settings_are_checked(field: str, value: object) -> None:
    """Every field out of range gives an error with its name."""
    with pytest.raises(TrainingError, match=f"RigL.{field}: expected"):
        RigL(**{field: value})  # type: ignore[arg-type]
