"""Rescue: the deadlines that lowering a running inference saves, and what it costs in accuracy.

Every guarded run has an unguarded twin: same level, budget and disturbance, one right after the other, in random order.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from nested_sparse.errors import BenchError
from nested_sparse.runtime.profiling import LatencyProfile
from nested_sparse.runtime.rerouting import RouteGuard, RouteTable
from nested_sparse.runtime.session import Arrays, Session, fixed_batch, random_inputs

from .neighbour import Neighbour, pinned

IDLE, BUSY = "idle", "busy"
BUDGET = 1.3
"""Of the predicted time: what a run may take whose core a neighbour comes to share."""
_LEAD_S = 0.004
_LONGEST = 4.0  # budgets that a neighbour stays busy: longer than any run takes beside it


@dataclass(frozen=True, slots=True)
class Pair:
    """One unguarded run and its guarded twin, ms; accuracy: expected of the route, None where it was not lowered."""

    budget_ms: float
    unguarded_ms: float
    guarded_ms: float
    lowered: bool
    accuracy: float | None


@dataclass(frozen=True)
class Rescue:
    """Pairs that began at `level` under one condition.

    condition: IDLE, a core to itself and a budget that an undisturbed run misses by up to half its time, but not less
        than the lowest level takes, for such requests are shed before they run; BUSY, a budget of BUDGET times the
        predicted time, and a busy process on the same core from a random moment of the run on.
    level_ms: of an undisturbed run at `level`. level_accuracy: of that level; None where the file says none.
    """

    condition: str
    level: int
    level_ms: float
    level_accuracy: float | None
    pairs: list[Pair] = field(default_factory=list)

    @property
    def near_misses(self) -> list[Pair]:
        """Pairs whose unguarded run was late by less than half an inference."""
        return [pair for pair in self.pairs if 0 < pair.unguarded_ms - pair.budget_ms < self.level_ms / 2]

    @property
    def rescued(self) -> int:
        """Near misses whose guarded twin was in time."""
        return sum(pair.guarded_ms <= pair.budget_ms for pair in self.near_misses)

    @property
    def share(self) -> float:
        """Rescued of the near misses; NaN without any."""
        return self.rescued / len(self.near_misses) if self.near_misses else math.nan

    @property
    def needless(self) -> int:
        """Pairs lowered though the unguarded twin was in time."""
        return sum(pair.lowered and pair.unguarded_ms <= pair.budget_ms for pair in self.pairs)

    @property
    def accuracy_cost(self) -> float | None:
        """What lowering cost in the mean: the level's accuracy less that expected of the near misses' routes."""
        routes = [pair.accuracy for pair in self.near_misses if pair.accuracy is not None]
        return None if self.level_accuracy is None or not routes else self.level_accuracy - statistics.fmean(routes)


def measure_rescue(
    session: Session,
    table: RouteTable,
    *,
    batch: int = 1,
    levels: Sequence[int] | None = None,
    pairs: int = 100,
    limit_s: float = 60.0,
    seed: int = 0,
    slowdown: float = 1.0,
) -> list[Rescue]:
    """Rescues of runs that begin at each of `levels`, under IDLE and BUSY; `pairs` of each, in turns.

    levels: every one but the lowest, densest first, if None. One that takes little longer than the lowest has little to
        give up, and is rescued seldom.
    table: RouteTable.measure of this session and batch. batch: one whose runs last several time slices of the system
        (some milliseconds) shows a shared core; in shorter ones, the neighbour runs before or after.
    slowdown: what the guard is told to expect.
    Stops early when `limit_s` have passed. Raises BenchError: a session of several threads, which pinning would
    serialise; a system without affinity; a lowered run whose outputs are not those of its route.
    """
    if session.threads != 1:
        raise BenchError(f"rescue shares one core: expected a session of 1 thread, got {session.threads}")
    rng = np.random.default_rng(seed)
    with pinned() as core, Neighbour(core) as neighbour:
        twins = _Twins(session, table, batch, neighbour, slowdown)
        rescues = [
            Rescue(condition, level, twins.level_ms[level], session.levels[level].accuracy)
            for level in (reversed(range(1, len(session.levels))) if levels is None else levels)
            for condition in (IDLE, BUSY)
        ]
        end_s = time.monotonic() + limit_s
        for _ in range(pairs):
            for rescue in rescues:
                rescue.pairs.append(twins.run(rescue, rng))
            if time.monotonic() > end_s:
                break
    return rescues


class _Twins:
    """Runs pairs."""

    def __init__(self, session: Session, table: RouteTable, batch: int, neighbour: Neighbour, slowdown: float) -> None:
        self._session, self._neighbour, self._slowdown = session, neighbour, slowdown
        self._guard = RouteGuard(table)
        self._inputs = random_inputs(session.inputs, fixed_batch(session.inputs) or batch)
        self.level_ms = _profile(session, batch)

    def run(self, rescue: Rescue, rng: np.random.Generator) -> Pair:
        """One pair, budget and moment drawn anew. Raises BenchError."""
        level, whole_ms = rescue.level, self.level_ms[rescue.level]
        drawn = float(rng.random())
        least_ms = max(whole_ms / 2, self.level_ms[0])
        budget_ms = least_ms + drawn * (whole_ms - least_ms) if rescue.condition == IDLE else BUDGET * whole_ms
        busy_from_ms = drawn * whole_ms if rescue.condition == BUSY else None
        outputs: dict[str, Arrays] = {}

        def unguarded() -> None:
            self._session.run(self._inputs, level)

        def guarded() -> None:
            self._guard.arm(level, self.level_ms, budget_ms, self._slowdown)
            outputs["guarded"] = self._session.run(self._inputs, level, guard=self._guard)

        times_ms = {}
        for twin in (unguarded, guarded) if rng.random() < 0.5 else (guarded, unguarded):
            times_ms[twin] = self._disturbed_ms(twin, busy_from_ms, budget_ms)
        lowering = self._guard.lowering
        self._verify(level, outputs["guarded"])
        accuracy = None if lowering is None else lowering.accuracy
        return Pair(budget_ms, times_ms[unguarded], times_ms[guarded], lowering is not None, accuracy)

    def _disturbed_ms(self, run: Callable[[], None], busy_from_ms: float | None, budget_ms: float) -> float:
        if busy_from_ms is None:
            return _timed_ms(run)
        start_s = time.monotonic() + _LEAD_S
        begin_s = start_s + busy_from_ms / 1e3
        self._neighbour.plan(begin_s, begin_s + _LONGEST * budget_ms / 1e3)
        while time.monotonic() < start_s:
            time.sleep(max(0.0, start_s - time.monotonic()) / 2)
        try:
            return _timed_ms(run)
        finally:
            self._neighbour.wait()

    def _verify(self, level: int, outputs: Arrays) -> None:
        """That a run lowered once gave, bit for bit, what its route gives."""
        lowering = self._guard.lowering
        if lowering is None or lowering.fell_again:
            return
        layer = lowering.lowered_at
        route = f"{level} to {self._guard.level} at {layer!r}"
        self._guard.force(level, self._guard.level, layer)
        expected = self._session.run(self._inputs, level, guard=self._guard)
        if wrong := [name for name, array in expected.items() if not np.array_equal(array, outputs[name])]:
            raise BenchError(f"{self._session.name}: lowered from level {route}: outputs {wrong} are not that route's")


def _profile(session: Session, batch: int) -> Sequence[float]:
    return [row[0] for row in LatencyProfile.measure(session, (batch,), repeats=30, limit_s=10.0).median_ms]


def _timed_ms(run: Callable[[], object]) -> float:
    begun_s = time.perf_counter()
    run()
    return (time.perf_counter() - begun_s) * 1e3
