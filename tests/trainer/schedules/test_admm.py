"""ADMM: compared with its definition, with frozen levels, resumed runs and settings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from small_models import DENSITIES, nested_small_net, small_batches, snapshot
from torch import Tensor, nn

from nested_sparse.errors import TrainingError
from nested_sparse.trainer import Admm, FreezeThenGrow, Joint, NestedModel, TrainConfig, nest, train
from nested_sparse.trainer.nestings import Nesting
from nested_sparse.trainer.schedules.admm import AdmmSearch

CONFIG = TrainConfig(dense_epochs=1, search_epochs=4, recalibration_samples=48)


def linear(pattern: str, densities: tuple[float, ...] = (0.25, 0.5)) -> NestedModel:
    torch.manual_seed(2)
    return nest(nn.Sequential(nn.Linear(10, 8, bias=False)), densities=densities, pattern=pattern)


def started(net: NestedModel, level: int, settings: Admm) -> AdmmSearch:
    net.set_level(level)
    search = settings.search(net, level, net.densities[level])
    assert isinstance(search, AdmmSearch)
    search.begin()
    return search


def projected(values: NDArray[np.float32], rows: int, density: float) -> NDArray[np.float32]:
    """The projection by definition: all zero but the blocks of `rows` rows with the largest sums of magnitudes."""
    sums = np.abs(values).reshape(-1, rows, values.shape[1]).sum(axis=1)
    kept = np.argsort(-sums, axis=None, kind="stable")[: round(density * sums.size)]
    mask = np.zeros(sums.size, bool)
    mask[kept] = True
    return np.where(np.repeat(mask.reshape(sums.shape), rows, axis=0), values, 0)


@pytest.mark.parametrize(("pattern", "rows"), [("unstructured", 1), ("block4x1", 4)])
def test_z_and_u_follow_the_definition(pattern: str, rows: int) -> None:
    """Z = Π(W), U = 0; after an interval Z = Π(W + U) and then U += W - Z; the penalty is rho / 2 · ‖W - Z + U‖²."""
    net = linear(pattern)
    layer = net.nested_layers()["0"]
    search = started(net, 0, Admm(rho=0.5, updates=4))
    assert bool((layer.first_level == 0).all())
    w = layer.weight.detach().numpy().copy()
    z, u = projected(w, rows, 0.25), np.zeros_like(w)
    for progress in (0.0, 0.24, 0.25, 0.3, 0.5, 0.99):
        with torch.no_grad():
            layer.weight += 0.3 * torch.randn_like(layer.weight)
        w = layer.weight.detach().numpy().copy()
        search.before_step(progress, update=True)
        if progress in (0.25, 0.5, 0.99):
            z = projected(w + u, rows, 0.25)
            u = u + w - z
        np.testing.assert_allclose(search.z["0"], z, atol=1e-6)
        np.testing.assert_allclose(search.u["0"], u, atol=1e-6)
        penalty = search.penalty()
        assert penalty is not None
        np.testing.assert_allclose(penalty.item(), 0.25 * ((w - z + u) ** 2).sum(), rtol=1e-5)
        (gradient,) = torch.autograd.grad(penalty, layer.weight)
        np.testing.assert_allclose(gradient, 0.5 * (w - z + u), atol=1e-6)
        assert bool((layer.first_level == 0).all())


def test_frozen_levels_take_no_part() -> None:
    """The weights of a lower level stay in Z's support, have no penalty, and stay kept."""
    net = linear("unstructured")
    layer = net.nested_layers()["0"]
    frozen = layer.mask(0).clone()
    with torch.no_grad():
        layer.weight[frozen] = 1e-3  # by magnitude they would go first
    search = started(net, 1, Admm(rho=1.0, updates=2))
    assert bool((search.z["0"] != 0)[frozen].all())
    assert int((search.z["0"] != 0).sum()) == 40
    search.before_step(0.5, update=True)
    penalty = search.penalty()
    assert penalty is not None
    (gradient,) = torch.autograd.grad(penalty, layer.weight)
    assert not gradient[frozen].any()
    assert gradient[~frozen].any()
    search.end()
    assert torch.equal(layer.mask(0), frozen)
    assert int(layer.mask(1).sum()) == 40


class Tied(nn.Module):
    """Two layers of one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.second(F.relu(self.first(x)))  # type: ignore[no-any-return]


def test_layers_that_share_a_weight_all_train_dense() -> None:
    """In the search both layers keep everything; in the end they have the same mask, of the level's density."""
    net = nest(Tied(), densities=(0.25, 0.5))
    search = started(net, 0, Admm(updates=2))
    for progress in (0.0, 0.5):
        search.before_step(progress, update=True)
        assert all(bool(layer.mask(0).all()) for layer in net.nested_layers().values())
    assert list(search.z) == ["first"]
    search.end()
    first, second = (layer.mask(0) for layer in net.nested_layers().values())
    assert torch.equal(first, second)
    assert int(first.sum()) == 16


def test_without_sparse_layers_there_is_no_penalty() -> None:
    """A net whose layers are all kept dense has no penalty."""
    net = nest(nn.Sequential(nn.Linear(4, 4)), densities=(0.25, 0.5), keep_dense=("*",))
    search = started(net, 0, Admm())
    assert not search.before_step(0.5, update=True)
    assert search.penalty() is None


def test_learning_rate_starts_anew_with_each_interval() -> None:
    """lr_progress rises from 0 to 1 once per interval."""
    search = Admm(updates=4).search(linear("unstructured"), 0, 0.25)
    assert [round(search.lr_progress(x), 6) for x in (0.0, 0.2, 0.25, 0.49, 0.75)] == [0.0, 0.8, 0.0, 0.96, 0.0]


def test_the_penalty_pulls_weights_to_their_projection() -> None:
    """After training with it, pruning removes a smaller share of the weights' norm than without."""

    def lost(rho: float) -> float:
        net, seen = nested_small_net(), list[float]()

        def watch(report: object) -> None:
            layer = net.nested_layers()["9"]
            pruned = projected(layer.weight.detach().numpy()[:, :], 1, DENSITIES[0])
            seen.append(float(np.square(layer.weight.detach().numpy() - pruned).sum()))

        torch.manual_seed(1)
        nesting = FreezeThenGrow((0, 0, 0))
        config = TrainConfig(dense_epochs=1, search_epochs=8, recalibration_samples=0)
        train(net, small_batches(), F.cross_entropy, config, schedule=Admm(rho), nesting=nesting, on_progress=watch)
        return seen[-1] / seen[0]

    assert lost(0.1) < 0.7 * lost(1e-9)


@pytest.mark.parametrize("nesting", [FreezeThenGrow(1, search_each=True), Joint(epochs=1)])
@pytest.mark.parametrize("pattern", ["unstructured", "block4x1", "gs8x1", "channel"])
def test_masks_nest_at_their_densities(pattern: str, nesting: Nesting) -> None:
    """In the end every level keeps as many weights as in a one-shot choice."""
    net = nested_small_net(pattern=pattern, keep_dense=("0",))
    expected = [net.density(level) for level in range(3)]
    train(net, small_batches(), F.cross_entropy, CONFIG, schedule=Admm(updates=2), nesting=nesting)
    assert [net.density(level) for level in range(3)] == pytest.approx(
        expected, abs=0.02 if pattern == "channel" else 0
    )


class KilledError(Exception):
    """Stops a run as a signal does."""


@pytest.mark.parametrize("stop_after", [2, 3, 4, 8])
def test_resumed_run_equals_uninterrupted(tmp_path: Path, stop_after: int) -> None:
    """A run stopped after an epoch, in an interval or between two, ends with the same bits."""

    def run(net: NestedModel, stop: int = 0, state: Path | None = None) -> dict[str, Tensor]:
        def stop_there(report: object) -> None:
            if report.done_epochs == stop:  # type: ignore[attr-defined]
                raise KilledError

        torch.manual_seed(4)
        options = {"schedule": Admm(updates=2), "nesting": FreezeThenGrow(1, search_each=True)}
        train(net, small_batches(), F.cross_entropy, CONFIG, **options, state_path=state, on_progress=stop_there)  # type: ignore[arg-type]
        return snapshot(net)

    whole, state = run(nested_small_net()), tmp_path / "run.state"
    with pytest.raises(KilledError):
        run(nested_small_net(), stop_after, state)
    resumed = run(nested_small_net(), 0, state)
    assert all(torch.equal(resumed[key], value) for key, value in whole.items())


@pytest.mark.parametrize(("field", "value"), [("rho", 0), ("rho", "much"), ("updates", 0)])
def test_settings_are_checked(field: str, value: object) -> None:
    """Every field out of range gives an error with its name."""
    with pytest.raises(TrainingError, match=f"Admm.{field}: expected"):
        Admm(**{field: value})  # type: ignore[arg-type]
