"""RouteGuard: lowers the level of one run at a time, where the run would otherwise miss its deadline."""

from __future__ import annotations

import ctypes
import math
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from nested_sparse.errors import InputError, LevelError
from nested_sparse.excerpt import excerpt, excerpts
from nested_sparse.kernels.guarded_run import GuardedRun, guarding, monotonic_ns

from ..session import Guard, LevelCell, Lowering
from .rule import MARGIN
from .table import RouteTable


class RouteGuard(Guard):
    """A guard whose rule (`rule`) the operators of the run follow themselves, each when it starts.

    table: the routes of the model.
    record: number of operators, from the first on, of which `starts` keeps the layer and the start.
    """

    def __init__(self, table: RouteTable, *, record: int = 0) -> None:
        self.table = table
        self._cell = LevelCell(0)
        self._started_level = 0
        self._level_ms = np.full(table.level_count, np.nan)
        self._started_ns = np.zeros(record, np.int64)
        self._layers = (ctypes.c_char_p * record)()
        self._busy = threading.Lock()
        self._armed = False
        self._run = GuardedRun(
            level=self._cell.address,
            level_ms=self._level_ms.ctypes.data,
            remaining_share=table.remaining_share.ctypes.data,
            order=table.order.ctypes.data,
            started_ns=self._started_ns.ctypes.data,
            layers=self._layers,
            capacity=record,
            level_count=table.level_count,
            operator_count=len(table.layers),
            lowered_at=-1,
        )

    def arm(
        self,
        level: int,
        level_ms: Sequence[float],
        budget_ms: float,
        slowdown: float,
        *,
        least_accuracy: float = -math.inf,
        lowest_level: int = 0,
        margin: float = MARGIN,
    ) -> None:
        """As Guard.arm.

        margin: share of a whole run that is kept in reserve at its start.
        Raises LevelError: a level that the table does not have. Raises InputError: times that are none, or a run that
        is under way.
        """
        if len(level_ms) != self.table.level_count:
            raise InputError(f"level_ms: expected a time for {self.table.level_count} levels, got {len(level_ms)}")
        if not (
            min(level_ms) > 0 and 0 < slowdown < math.inf and not (math.isnan(budget_ms) or math.isnan(least_accuracy))
        ):
            raise InputError(
                f"a guard needs times and a slowdown above 0, got level_ms {list(level_ms)}, budget_ms {budget_ms}, "
                f"slowdown {slowdown}, least_accuracy {least_accuracy}"
            )
        if not 0 <= lowest_level < self.table.level_count:
            raise LevelError(f"lowest_level {lowest_level}: there are levels 0 to {self.table.level_count - 1}")
        self._prepare(level)
        self._level_ms[:] = level_ms
        run = self._run
        run.budget_ms, run.slowdown = budget_ms, slowdown
        run.least_accuracy, run.lowest_level, run.margin = least_accuracy, lowest_level, margin
        run.forced_at = -1

    def tighten(self, left_ms: float) -> None:
        """As Guard.tighten."""
        run = self._run
        run.budget_ms = min(run.budget_ms, (monotonic_ns() - run.begun_ns) / 1e6 + left_ms)

    def force(self, level: int, end: int, layer: str) -> None:
        """Prepare the next run, which starts at `level`: it falls to `end` at `layer` and nowhere else, at any time.

        It verifies lowered runs, and measures what they score. Raises LevelError, InputError.
        """
        if not 0 <= end < level:
            raise LevelError(f"a reroute goes down from {level}, got level {end}")
        if layer not in self.table.layers:
            raise InputError(f"no operator '{excerpt(layer)}'; there are {excerpts(self.table.layers)}")
        self._prepare(level)
        self._level_ms[:] = np.nan
        self._run.forced_at, self._run.forced_level = self.table.layers.index(layer), end

    @property
    def level(self) -> int:
        """As Guard.level."""
        return self._cell.value

    @property
    def lowering(self) -> Lowering | None:
        """As Guard.lowering."""
        place, before = int(self._run.lowered_at), int(self._run.lowered_from)
        if place < 0:
            return None
        accuracy = self.table.expected_accuracy(before, self.level, place)
        return Lowering(self._started_level, self.table.layers[place], before, accuracy)

    @property
    def nominal_ms(self) -> float:
        """As Guard.nominal_ms; NaN of a forced run."""
        return float(self._run.done_ms + self._level_ms[self.level] * self._run.share_left)

    @property
    def starts(self) -> list[tuple[str, float]]:
        """Layer and start (ms since armed) of the operators of the last run, as far as they were recorded."""
        count = min(self._run.position, self._run.capacity)
        begun_ns = self._run.begun_ns
        return [((self._layers[n] or b"").decode(), (int(self._started_ns[n]) - begun_ns) / 1e6) for n in range(count)]

    @property
    def operator_count(self) -> int:
        """Number of operators that started in the last run."""
        return int(self._run.position)

    @contextmanager
    def running(self, level: int, level_count: int) -> Iterator[LevelCell]:
        """As Guard.running.

        Raises InputError: not armed, armed for another level or model, or in use by another run.
        """
        if not self._busy.acquire(blocking=False):
            raise InputError("this guard is in use by another run; take one for each run at a time")
        try:
            if not self._armed or (level, level_count) != (self._cell.value, self.table.level_count):
                raise InputError(
                    f"this guard is {'' if self._armed else 'not '}armed for level {self._cell.value} of "
                    f"{self.table.level_count}, and the run is at level {level} of {level_count}; arm it for this run"
                )
            self._armed = False
            with guarding(self._run):
                yield self._cell
        finally:
            self._busy.release()

    def _prepare(self, level: int) -> None:
        if not 0 <= level < self.table.level_count:
            raise LevelError(f"level {level} is out of range 0 to {self.table.level_count - 1}")
        if self._busy.locked():
            raise InputError("this guard is in use by a run; take one for each run at a time")
        self._cell.reset(level)
        self._started_level = level
        run = self._run
        run.position, run.lowered_at, run.lowered_from = 0, -1, -1
        run.share_left, run.done_ms = 1.0, 0.0
        run.seen.elapsed_ms = run.seen.done_ms = run.last.elapsed_ms = run.last.done_ms = 0.0
        run.begun_ns = monotonic_ns()
        self._armed = True
