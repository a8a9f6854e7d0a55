"""Latency: the times that the levels of a network may take on a device, and the part of them that its masks decide."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .argument import as_float, shown
from .errors import BudgetError
from .time_curve import TimeCurve


@dataclass(frozen=True, slots=True)
class Latency:
    """The times of a network whose layers each take a time that rises with their kept weights. All in ms.

    levels_ms: the time of each level. densities: a number in (0, 1] for each level that stands for its time, rising:
    searches ask for masks by density. A density between two levels' stands for a time between theirs in proportion.
    fixed_ms: time of a run without any weight of the layers that levels thin. dense_ms: with all of them.
    curves: layer name to its time over its kept weights, those of padding included; from 0 ms on, strictly rising.
    """

    levels_ms: tuple[float, ...]
    densities: tuple[float, ...]
    fixed_ms: float
    dense_ms: float
    curves: Mapping[str, TimeCurve]

    def budget_ms(self, density: float) -> float:
        """The time that the kept weights may take at `density`."""
        stands_for = (0.0, *self.densities, 1.0)
        times_ms = (self.fixed_ms, *self.levels_ms, self.dense_ms)
        return float(np.interp(density, stands_for, times_ms)) - self.fixed_ms


def shares_of_time(levels_ms: Sequence[float], fixed_ms: float, dense_ms: float) -> tuple[float, ...]:
    """Densities that stand for the times before masks exist: equal shares of the time between fixed and dense."""
    return tuple((ms - fixed_ms) / (dense_ms - fixed_ms) for ms in levels_ms)


def check_latencies(latency_ms: Sequence[float] | None) -> tuple[float, ...]:
    """The times as floats: finite, above 0, strictly rising. Raises BudgetError."""
    try:
        given = None if latency_ms is None or isinstance(latency_ms, str | bytes | Mapping) else list(latency_ms)
    except TypeError:  # a single number
        given = None
    if not given:
        raise BudgetError(
            f"latency_ms: expected a list of milliseconds, one per level, e.g. (2.0, 4.0), got {shown(latency_ms)}"
        )
    checked = []
    for each in given:
        ms = as_float(each)
        if ms is None or not 0 < ms < math.inf:
            raise BudgetError(f"latency_ms: expected numbers above 0, one per level, got {shown(each)} among them")
        checked.append(ms)
    if any(low >= high for low, high in itertools.pairwise(checked)):
        raise BudgetError(f"latency_ms must rise with the level (level 0 is the fastest), got {tuple(checked)}")
    return tuple(checked)


def check_possible(levels_ms: Sequence[float], least_ms: float, dense_ms: float) -> None:
    """Raise BudgetError, which names the least and the most possible, where a level cannot take its time."""
    for level, ms in enumerate(levels_ms):
        if not least_ms <= ms <= dense_ms:
            reason = (
                "is less than the network takes with the least that every layer keeps"
                if ms < least_ms
                else "is more than the network takes with all weights"
            )
            least, most = _rounded(least_ms, math.ceil), _rounded(dense_ms, math.floor)
            if float(least) > float(most):  # too near each other for so few digits
                least, most = repr(least_ms), repr(dense_ms)
            raise BudgetError(
                f"latency_ms: {ms:g} ms of level {level} {reason}; by its costs this network takes from {least} to "
                f"{most} ms"
            )


def _rounded(ms: float, direction: Callable[[float], int]) -> str:
    """Four digits of `ms`, rounded so that the number is still possible."""
    if ms <= 0:
        return "0"
    unit = 10.0 ** (math.floor(math.log10(ms)) - 3)
    return f"{direction(ms / unit) * unit:.10g}"
