"""VirtualGuard: lowers the level of a run in virtual time, by the rule that the operators follow in real time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np

from nested_sparse.errors import InputError

from ..rerouting import RouteTable, RuledRun, RunTerms
from ..session import Guard, LevelCell, Lowering


class VirtualGuard(Guard):
    """The guard of a VirtualSession, for one run at a time.

    table: the routes of the simulated model.
    places: numbers of the operators at which some level may fall, in the order they run.
    """

    def __init__(self, table: RouteTable) -> None:
        self.table = table
        self.places = tuple(int(n) for n in np.flatnonzero(~np.isnan(table.order).all(axis=(0, 1))))
        self._cell = LevelCell(0)
        self._started_level = 0
        self._run: RuledRun | None = None
        self._clock: Callable[[], float] | None = None
        self._begun_s = 0.0

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
        """As Guard.arm, but the budget counts from begin(): no virtual time passes between the two."""
        terms = RunTerms(tuple(level_ms), budget_ms, slowdown, least_accuracy, lowest_level)
        self._cell.reset(level)
        self._started_level, self._run, self._clock = level, RuledRun(self.table, terms, level), None

    def tighten(self, left_ms: float) -> None:
        """As Guard.tighten."""
        if self._run is not None and self._clock is not None:
            terms = self._run.terms
            self._run.terms = replace(terms, budget_ms=min(terms.budget_ms, self._elapsed_ms() + left_ms))

    @contextmanager
    def running(self, level: int, level_count: int) -> Iterator[LevelCell]:
        """As Guard.running. Raises InputError: not armed for this run."""
        ready = self._run is not None and self._clock is None  # armed, and no run has begun since
        if not ready or (level, level_count) != (self.level, self.table.level_count):
            raise InputError(f"this guard is not armed for level {level} of {level_count}; arm it for this run")
        yield self._cell

    def begin(self, clock: Callable[[], float]) -> None:
        """The run begins now. clock: that of the session, in seconds."""
        self._clock, self._begun_s = clock, clock()

    def arrive(self, n: int) -> None:
        """Operator `n` starts now: the level may fall."""
        level = self._armed.arrive(n, self._elapsed_ms())
        if level < self.level:
            self._cell.lower(level)

    @property
    def level(self) -> int:
        """As Guard.level."""
        return self._cell.value

    @property
    def lowering(self) -> Lowering | None:
        """As Guard.lowering."""
        place, before = self._armed.lowered_at, self._armed.lowered_from
        if place is None or before is None:
            return None
        accuracy = self.table.expected_accuracy(before, self.level, place)
        return Lowering(self._started_level, self.table.layers[place], before, accuracy)

    @property
    def nominal_ms(self) -> float:
        """As Guard.nominal_ms."""
        return self._armed.nominal_ms

    @property
    def _armed(self) -> RuledRun:
        if self._run is None:
            raise InputError("this guard is not armed; call arm() before each run")
        return self._run

    def _elapsed_ms(self) -> float:
        return 0.0 if self._clock is None else (self._clock() - self._begun_s) * 1e3
