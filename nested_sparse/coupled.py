"""Coupled channels: groups of channels that several layers share, kept or dropped in all of them together.

One group holds the output rows of the layers that produce its channels and the input channels of the layers that read
them (a dependency group of structural pruning, arXiv:2301.12900). A level keeps a weight where a kept row meets a kept
input channel. So no sparse layer reads the values that norms and biases give to a dropped channel.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .budget import Budget, check_densities
from .errors import BudgetError
from .mask import NEVER, group_count


@dataclass(frozen=True, slots=True)
class ChannelGroup:
    """Channels, by index, that are kept or dropped together in all layers named. No two groups of a net are equal.

    channels: number of channels. step: channels that are kept or dropped at a time, the best first; the last step may
        be smaller.
    producers: layers whose rows the channels are. consumers: layers that read them. norms: normalisations between.
    whole: reason why every level keeps all channels; "" where they may be dropped.
    """

    channels: int
    step: int
    producers: tuple[str, ...]
    consumers: tuple[str, ...]
    norms: tuple[str, ...] = ()
    whole: str = ""

    @property
    def steps(self) -> int:
        """Number of steps; 1 where every level keeps all channels."""
        return 1 if self.whole else group_count(self.channels, self.step)


@dataclass(frozen=True, slots=True)
class CoupledWeight:
    """A weight (O, K) between two groups.

    writes: group of its rows. reads: group of its input channels. taps: columns of one input channel.
    """

    name: str
    writes: ChannelGroup
    reads: ChannelGroup
    taps: int

    @property
    def size(self) -> int:
        """O × K, the number of weights."""
        return self.writes.channels * self.reads.channels * self.taps

    def sums(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """(O, C) sums of (O, K) `weights` over the taps of each row and channel."""
        return np.asarray(weights.reshape(self.writes.channels, self.reads.channels, self.taps).sum(axis=2))

    def first_level(self, levels: Mapping[ChannelGroup, NDArray[np.uint8]]) -> NDArray[np.uint8]:
        """(O, K) first level of every weight, from the first levels of the channels."""
        columns = np.repeat(levels[self.reads], self.taps)
        return np.asarray(np.maximum(levels[self.writes][:, None], columns[None, :]))


def groups_of(weights: Sequence[CoupledWeight]) -> list[ChannelGroup]:
    """Every group that some weight writes or reads, once, in order of occurrence."""
    return list(dict.fromkeys(group for weight in weights for group in (weight.writes, weight.reads)))


def channel_importance(
    weights: Sequence[CoupledWeight], scores: Mapping[str, NDArray[np.float64]]
) -> dict[ChannelGroup, NDArray[np.float64]]:
    """(C,) importance of the channels of each group: sums of the (O, K) scores over their rows and columns."""
    importance = {group: np.zeros(group.channels) for group in groups_of(weights)}
    for weight in weights:
        sums = weight.sums(scores[weight.name])
        importance[weight.writes] += sums.sum(axis=1)
        importance[weight.reads] += sums.sum(axis=0)
    return importance


def present_levels(
    weights: Sequence[CoupledWeight], first_levels: Mapping[str, NDArray[np.uint8]]
) -> dict[ChannelGroup, NDArray[np.uint8]]:
    """(C,) first level of every channel: the lowest first level in its rows and columns of all layers."""
    levels = {group: np.full(group.channels, NEVER, np.uint8) for group in groups_of(weights)}
    for weight in weights:
        first_level = first_levels[weight.name].reshape(weight.writes.channels, weight.reads.channels, weight.taps)
        for group, lowest in (
            (weight.writes, first_level.min(axis=(1, 2))),
            (weight.reads, first_level.min(axis=(0, 2))),
        ):
            np.minimum(levels[group], lowest, out=levels[group])
    return levels


def ranking(
    importance: NDArray[np.float64], present: NDArray[np.uint8] | None = None, frozen_levels: int = 0
) -> NDArray[np.int64]:
    """(C,) channels, best first. Channels that frozen levels keep now come before all others, lower levels first."""
    frozen = np.zeros(importance.size, np.uint8) if present is None else np.minimum(present, frozen_levels)
    return np.lexsort((-importance, frozen))


def channel_counts(
    weights: Sequence[CoupledWeight],
    budget: Budget | str,
    densities: Sequence[float],
    importance: Mapping[ChannelGroup, NDArray[np.float64]],
    *,
    present: Mapping[ChannelGroup, NDArray[np.uint8]] | None = None,
    frozen_levels: int = 0,
) -> dict[ChannelGroup, list[int]]:
    """Number of channels that each group keeps at each level; the weights kept come as near as possible to the density.

    budget: "uniform": the same share of every group; "global": one ranking over the channels of all groups by
        `importance`. Groups grow step by step, from one step each, or from the root of the least density of the budget,
        so that rows × columns have that density. Counts never fall from one level to the next.
    importance: (C,) importance of the channels of each group, comparable between groups.
    present: first levels of the channels now. frozen_levels: number of levels that keep their channels of
        now, unless these exceed the density by more than half a step, as after a search that aimed at a denser level.
    Raises BudgetError.
    """
    budget, levels = Budget(budget) if isinstance(budget, str) else budget, check_densities(densities)
    groups = groups_of(weights)
    present = present or {group: np.zeros(group.channels, np.uint8) for group in groups}
    ranks = {group: ranking(importance[group], present[group], frozen_levels) for group in groups}
    frozen = {group: np.minimum(present[group][ranks[group]], frozen_levels) for group in groups}
    ranked = {group: importance[group][ranks[group]] for group in groups}
    least = [_least_steps(group, budget.min_layer_density) for group in groups]
    grown = _counts_as_they_grow(groups, least, _order(groups, least, budget, ranked, frozen))
    kept = _kept(weights, budget, groups, grown)
    everything = int(_kept(weights, budget, groups, grown[-1:])[0])
    chosen = [grown[np.argmin(np.abs(kept - density * everything))] for density in levels]
    for level in range(min(frozen_levels, len(levels))):
        before = np.array([int((frozen[group] <= level).sum()) for group in groups])
        excess = int(_kept(weights, budget, groups, before[None])[0]) - levels[level] * everything
        if excess <= _largest_step(weights, budget, groups) / 2:
            chosen[level] = before
    rising = np.maximum.accumulate(np.array(chosen), axis=0)
    return {group: rising[:, index].tolist() for index, group in enumerate(groups)}


def channel_levels(ranks: NDArray[np.int64], counts: Sequence[int]) -> NDArray[np.uint8]:
    """(C,) first level of every channel. Level l keeps the first `counts[l]` channels of `ranks`; counts never fall."""
    levels = np.full(ranks.size, NEVER, np.uint8)
    for level in reversed(range(len(counts))):
        levels[ranks[: counts[level]]] = level
    return levels


def _least_steps(group: ChannelGroup, density: float) -> int:
    """Number of steps of a group that every level keeps."""
    return min(group.steps, max(1, math.ceil(math.sqrt(density) * group.channels / group.step)))


def _order(
    groups: Sequence[ChannelGroup],
    least: Sequence[int],
    budget: Budget,
    ranked: Mapping[ChannelGroup, NDArray[np.float64]],
    frozen: Mapping[ChannelGroup, NDArray[np.uint8]],
) -> NDArray[np.int64]:
    """Index of the group that grows by a step, first to last, after every group has its `least` steps."""
    taken = [np.arange(steps, group.steps) for group, steps in zip(groups, least, strict=True)]
    owner = np.repeat(np.arange(len(groups)), [steps.size for steps in taken])
    if budget.name == "uniform":  # a step is taken once half of it is due
        due = [(steps + 0.5) / group.steps for group, steps in zip(groups, taken, strict=True)]
        return np.asarray(owner[np.argsort(np.concatenate(due), kind="stable")])
    if budget.name == "global":
        starts = [steps * group.step for group, steps in zip(groups, taken, strict=True)]
        both = [(group, int(at)) for group, each in zip(groups, starts, strict=True) for at in each]
        means = np.array([ranked[group][at : at + group.step].mean() for group, at in both])
        first = np.array([frozen[group][at] for group, at in both])
        return np.asarray(owner[np.lexsort((-means, first))])
    raise BudgetError(f"budget {budget.name!r} is not for channels that layers share; choose 'uniform' or 'global'")


def _counts_as_they_grow(
    groups: Sequence[ChannelGroup], least: Sequence[int], order: NDArray[np.int64]
) -> NDArray[np.int64]:
    """(steps + 1, G) channels of each group after none of the steps of `order`, after one, …, after all."""
    grown = np.zeros((order.size + 1, len(groups)), np.int64)
    grown[np.arange(1, order.size + 1), order] = 1
    steps, channels = np.array(least) + grown.cumsum(axis=0), np.array([group.channels for group in groups])
    size = np.array([group.channels if group.whole else group.step for group in groups])
    return np.asarray(np.minimum(steps * size, channels))


def _kept(
    weights: Sequence[CoupledWeight], budget: Budget, groups: Sequence[ChannelGroup], counts: NDArray[np.int64]
) -> NDArray[np.int64]:
    """(P,) weights, or multiply-adds, that all layers keep together, for each row of (P, G) channel counts."""
    index = {group: number for number, group in enumerate(groups)}
    rows, columns = [index[weight.writes] for weight in weights], [index[weight.reads] for weight in weights]
    cost = np.array([weight.taps * budget.weight_cost(weight.name) for weight in weights])
    return np.asarray((counts[:, rows] * counts[:, columns] * cost).sum(axis=1))


def _largest_step(weights: Sequence[CoupledWeight], budget: Budget, groups: Sequence[ChannelGroup]) -> int:
    """Largest cost of one step of a group."""
    costs = dict.fromkeys(groups, 0)
    for weight in weights:
        tap = weight.taps * budget.weight_cost(weight.name)
        costs[weight.writes] += weight.reads.channels * tap
        costs[weight.reads] += weight.writes.channels * tap
    return max(group.step * cost for group, cost in costs.items())
