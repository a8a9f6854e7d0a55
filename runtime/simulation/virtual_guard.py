"""VirtualGuard: lowers the level of a run in virtual time, by the rule that the operators follow in real time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Routes(Protocol):
    """What is needed of a RouteTable: L levels, N operators in the order they run."""

    @property
    def layers(self) -> tuple[str, ...]: ...  # noqa: D102 -- N names

    @property
    def remaining_share(self) -> NDArray[np.float64]: ...  # noqa: D102 -- (L, N)

    @property
    def accuracy(self) -> NDArray[np.float64]: ...  # noqa: D102 -- (L, L, N), NaN where the level may not fall

    def decide(
        self,
        level: int,
        n: int,
        elapsed_ms: float,
        level_ms: Sequence[float],
        budget_ms: float,
        slowdown: float,
        least_accuracy: float = -math.inf,
        lowest_level: int = 0,
    ) -> int:
        """Level from operator n on."""


@dataclass(frozen=True, slots=True)
class _Armed:
    level_ms: Sequence[float]
    budget_ms: float
    slowdown: float
    least_accuracy: float
    lowest_level: int


class VirtualGuard:
    """One run at a time, with the calls of a RouteGuard: arm(), then the run, then what became of it.

    level: the level the run ended at.  lowered_at, lowered_from: the layer from which it ran lower, and its level until
    then, None if it did not.  expected_accuracy: of the path taken, None if it was not lowered.
    nominal_ms: profiled time of the path taken.
    """

    def __init__(self, table: Routes) -> None:
        self.table = table
        self.level: int = table.accuracy.shape[0] - 1
        self.lowered_at: str | None = None
        self.lowered_from: int | None = None
        self.expected_accuracy: float | None = None
        self.nominal_ms = 0.0
        self.clock: Callable[[], float] | None = None  # the session's, in seconds
        self._begun_s = 0.0
        self._armed: _Armed | None = None
        self._forced: tuple[int, str] | None = None

    def arm(
        self,
        level: int,
        level_ms: Sequence[float],
        budget_ms: float,
        slowdown: float,
        *,
        least_accuracy: float = -math.inf,
        lowest_level: int = 0,
    ) -> None:
        """Watches the next run, which starts at `level` and has `budget_ms`."""
        self._reset(level)
        self._armed = _Armed(tuple(level_ms), budget_ms, slowdown, least_accuracy, lowest_level)

    def begin(self, clock: Callable[[], float]) -> None:
        """The run begins now."""
        self.clock, self._begun_s = clock, clock()

    def tighten(self, left_ms: float) -> None:
        """The run under way is to end within `left_ms` from now, if that is sooner than it had."""
        if self._armed is not None and self.clock is not None:
            elapsed_ms = (self.clock() - self._begun_s) * 1e3
            self._armed = replace(self._armed, budget_ms=min(self._armed.budget_ms, elapsed_ms + left_ms))

    def force(self, level: int, end: int, layer: str) -> None:
        """Has the next run, which starts at `level`, fall to `end` at `layer`."""
        self._reset(level)
        self._forced = (end, layer)

    def places(self) -> list[int]:
        """Operators at which a level may fall, in the order they run."""
        return [int(n) for n in np.flatnonzero(~np.isnan(self.table.accuracy).all(axis=(0, 1)))]

    def pass_operator(self, n: int, elapsed_ms: float) -> None:
        """Operator `n` is about to start: decides the level from there on."""
        end = self._decide(n, elapsed_ms)
        if end != self.level:
            # as the real one: of a run that is lowered twice only the last fall is known
            self.expected_accuracy = float(self.table.accuracy[self.level, end, n])
            self.level, self.lowered_at, self.lowered_from = end, self.table.layers[n], self.level

    def _decide(self, n: int, elapsed_ms: float) -> int:
        if self._forced is not None:
            end, layer = self._forced
            return end if self.table.layers[n] == layer else self.level
        armed = self._armed
        if armed is None or np.isnan(self.table.accuracy[self.level, :, n]).all():
            return self.level
        return self.table.decide(
            self.level,
            n,
            elapsed_ms,
            armed.level_ms,
            armed.budget_ms,
            armed.slowdown,
            armed.least_accuracy,
            armed.lowest_level,
        )

    def _reset(self, level: int) -> None:
        self.level, self.nominal_ms = level, 0.0
        self.lowered_at = self.lowered_from = self.expected_accuracy = None
        self._armed = self._forced = None
