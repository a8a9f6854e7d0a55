"""Coupled channels: their counts and levels, compared with the definitions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nested_sparse.budget import Budget
from nested_sparse.coupled import ChannelGroup, CoupledWeight, channel_counts, channel_levels, groups_of, ranking
from nested_sparse.errors import BudgetError


def chain(sizes: list[int], step: int) -> list[CoupledWeight]:
    """Layers one after the other, of 3 taps; the first channels and the last are whole."""
    last = len(sizes) - 1
    ends = {0: "input", last: "output"}
    groups = [ChannelGroup(size, step, (f"{i}",), (f"{i + 1}",), (), ends.get(i, "")) for i, size in enumerate(sizes)]
    return [CoupledWeight(f"{i + 1}", groups[i + 1], groups[i], 3) for i in range(last)]


def kept(weights: list[CoupledWeight], counts: dict[ChannelGroup, int]) -> int:
    """Weights where kept rows meet kept channels."""
    return sum(counts[weight.writes] * counts[weight.reads] * 3 for weight in weights)


def random_importance(weights: list[CoupledWeight], seed: int) -> dict[ChannelGroup, np.ndarray]:
    """A random importance of every channel."""
    generator = np.random.default_rng(seed)
    return {group: generator.random(group.channels) for group in groups_of(weights)}


@given(
    sizes=st.lists(st.integers(1, 40), min_size=3, max_size=5),
    step=st.sampled_from([1, 4, 16]),
    densities=st.lists(st.floats(0.02, 1.0), min_size=1, max_size=4, unique=True).map(sorted),
    budget=st.sampled_from(["uniform", "global"]),
)
def test_counts_come_in_steps_near_the_density(
    sizes: list[int], step: int, densities: list[float], budget: str
) -> None:
    """Whole steps, ends whole, never falling; and no step more or less of a free group comes nearer by a whole step."""
    weights = chain(sizes, step)
    counts = channel_counts(weights, budget, densities, random_importance(weights, len(sizes)))
    everything = sum(weight.size for weight in weights)
    largest = max(step * 3 * (sizes[i - 1] + sizes[i + 1]) for i in range(1, len(sizes) - 1))
    least = kept(weights, {group: group.channels if group.whole else min(step, group.channels) for group in counts})
    for group, each in counts.items():
        assert each == sorted(each)
        assert all(count == group.channels or (count % step == 0 and not group.whole) for count in each)
    for level, density in enumerate(densities):
        error = kept(weights, {group: each[level] for group, each in counts.items()}) - density * everything
        assert abs(error) <= largest / 2 + 1e-9 or (error > 0 and error == pytest.approx(least - density * everything))


@given(density=st.floats(0.02, 1.0), sizes=st.lists(st.integers(4, 40), min_size=3, max_size=5))
def test_uniform_gives_every_group_the_same_share(density: float, sizes: list[int]) -> None:
    """To within a step of each group."""
    counts = channel_counts(chain(sizes, 2), "uniform", [density], random_importance(chain(sizes, 2), 0))
    free = [(group, each[0]) for group, each in counts.items() if not group.whole]
    low = max((count - 2) / group.channels for group, count in free if count > 2) if any(c > 2 for _, c in free) else 0
    high = min((count + 2) / group.channels for group, count in free)
    assert low <= high


@given(density=st.floats(0.02, 1.0), seed=st.integers(0, 99))
def test_global_is_one_threshold_over_all_groups(density: float, seed: int) -> None:
    """In steps of 1, each kept channel is at least as important as each dropped one, except a group's first."""
    weights = chain([3, 20, 30, 10, 4], 1)
    importance = random_importance(weights, seed)
    counts = channel_counts(weights, "global", [density], importance)
    free = [group for group in counts if not group.whole]
    best = {group: np.sort(importance[group])[::-1] for group in free}
    held = [best[group][1 : counts[group][0]] for group in free]
    gone = [best[group][counts[group][0] :] for group in free]
    assert min(np.concatenate(held), default=1.0) >= max(np.concatenate(gone), default=0.0)


@given(density=st.floats(0.05, 0.6), seed=st.integers(0, 99), budget=st.sampled_from(["uniform", "global"]))
def test_frozen_channels_come_first_and_stay(density: float, seed: int, budget: str) -> None:
    """A frozen level keeps the same channels, whatever is important now; higher ones add to it."""
    weights = chain([3, 20, 30, 10, 4], 2)
    first, now = random_importance(weights, seed), random_importance(weights, seed + 1)
    found = channel_counts(weights, budget, [density], first)
    present = {group: channel_levels(ranking(first[group]), found[group]) for group in found}
    again = channel_counts(weights, budget, [density, 0.8], now, present=present, frozen_levels=1)
    for group, (lower, upper) in again.items():
        assert lower == found[group][0] <= upper
        levels = channel_levels(ranking(now[group], present[group], 1), [lower, upper])
        assert ((levels == 0) == (present[group] == 0)).all()


@pytest.mark.parametrize("budget", ["uniform", "global"])
def test_a_search_for_a_denser_level_leaves_room_for_sparser_ones(budget: str) -> None:
    """If the frozen part is clearly above its density, the level keeps a part of it."""
    weights = chain([3, 20, 30, 10, 4], 2)
    importance = random_importance(weights, 1)
    found = channel_counts(weights, budget, [0.4], importance)
    present = {group: channel_levels(ranking(importance[group]), found[group]) for group in found}
    now = random_importance(weights, 2)
    ladder = channel_counts(weights, budget, [0.1, 0.4], now, present=present, frozen_levels=1)
    assert all(each[0] <= found[group][0] for group, each in ladder.items())
    share = kept(weights, {group: each[0] for group, each in ladder.items()}) / sum(weight.size for weight in weights)
    assert share == pytest.approx(0.1, abs=0.03)


def test_by_flops_a_weight_counts_as_often_as_it_is_multiplied() -> None:
    """The kept multiply-adds come near the density, and so the weights do not."""
    weights = chain([3, 20, 30, 10, 4], 2)
    often = {"1": 1, "2": 100, "3": 1, "4": 1}
    importance = random_importance(weights, 3)
    importance[weights[2].writes] += 1  # which only layers 3 and 4 have to do with
    counts = channel_counts(weights, Budget("global", "flops", positions=often), [0.3], importance)
    one = {group: each[0] for group, each in counts.items()}
    work = sum(one[w.writes] * one[w.reads] * 3 * often[w.name] for w in weights)
    share = work / sum(weight.size * often[weight.name] for weight in weights)
    assert share == pytest.approx(0.3, abs=0.03)
    assert kept(weights, one) / sum(weight.size for weight in weights) > 0.35


def test_no_layer_falls_below_the_least_density() -> None:
    """Rows and columns keep its root, each rounded up to steps."""
    weights = chain([3, 20, 30, 10, 4], 2)
    importance = random_importance(weights, 3)
    importance[weights[1].writes] *= 1e-3
    for least in (0.0, 0.2):
        counts = channel_counts(weights, Budget("global", min_layer_density=least), [0.25], importance)
        shares = [counts[w.writes][0] * counts[w.reads][0] * w.taps / w.size for w in weights]
        assert (min(shares) >= 0.2) == (least > 0)


def test_a_budget_for_layers_alone_is_refused() -> None:
    """The error names the budget."""
    weights = chain([3, 8, 2], 2)
    with pytest.raises(BudgetError, match="'erk' is not for channels that layers share"):
        channel_counts(weights, "erk", [0.5], random_importance(weights, 0))
