"""Execution: one run of a session for one or several requests, lowered in flight where it would be late."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from nested_sparse.errors import KernelError

from ..profiling import LatencyProfile, Profilable
from .job import Job, Outputs, joined, parted
from .request import ACCURACY


@dataclass(frozen=True, slots=True)
class Execution:
    """What one run gave.

    outputs: of each job. level: that it ended at. lowered_at: the first layer at that level, None where it never fell;
    lowered_from: the level before it.
    nominal_ms: profiled time of what ran. accuracy: expected; None where unknown.
    """

    outputs: Sequence[Outputs]
    level: int
    lowered_at: str | None
    lowered_from: int | None
    nominal_ms: float
    started_s: float
    ended_s: float
    accuracy: float | None


class Executor:
    """Runs jobs on a session, from any thread.

    guard: makes a RouteGuard for a thread; None: a level never falls while it runs.
    """

    def __init__(
        self,
        session: Profilable,
        profile: LatencyProfile,
        clock: Callable[[], float],
        guard: Callable[[], Any] | None = None,
    ) -> None:
        self._session = session
        self._profile = profile
        self._clock = clock
        self._guard = guard
        self._local = threading.local()
        self._active: list[Any] = []

    def run(self, jobs: Sequence[Job], level: int, slowdown: float) -> Execution:
        """Raises what the session raises."""
        batch = sum(job.waiting.batch for job in jobs)
        inputs = joined(jobs)
        guard = self._armed(jobs, level, batch, slowdown)
        started_s = self._clock()
        if guard is None:
            outputs = self._session.run(inputs, level)
        else:
            self._active.append(guard)
            try:
                outputs = self._session.run(inputs, level, **{"guard": guard})
            finally:
                self._active.remove(guard)
        ended_s = self._clock()
        parts = parted(outputs, jobs)
        if parts is None:
            raise KernelError(
                f"{self._session.name}: a batch of {batch} samples gave outputs {[a.shape for a in outputs.values()]}, "
                "which cannot be parted among its requests: not each output has a row for each sample; export it again"
            )
        lowered_at = None if guard is None else guard.lowered_at
        if guard is None or lowered_at is None:
            nominal_ms = self._profile.predict_ms(level, batch)
            return Execution(parts, level, None, None, nominal_ms, started_s, ended_s, self._accuracy(level))
        return Execution(
            parts,
            guard.level,
            lowered_at,
            guard.lowered_from,
            guard.nominal_ms,
            started_s,
            ended_s,
            guard.expected_accuracy,
        )

    def tighten_deadline(self, left_ms: float) -> None:
        """From any thread: what is under way and may be lowered is to end within `left_ms`."""
        for guard in tuple(self._active):
            guard.tighten(left_ms)

    def _armed(self, jobs: Sequence[Job], level: int, batch: int, slowdown: float) -> Any:
        """This thread's guard, ready for this run; None where the level may not fall."""
        lowest = max(job.waiting.lowest_level for job in jobs)
        if self._guard is None or level <= lowest or any(job.fixed for job in jobs):
            return None
        guard = getattr(self._local, "guard", None)
        if guard is None:
            guard = self._local.guard = self._guard()
        due_s = min(job.waiting.deadline_s for job in jobs)
        guard.arm(
            level,
            [self._profile.predict_ms(each, batch) for each in range(self._profile.level_count)],
            (due_s - self._clock()) * 1e3,
            slowdown,
            least_accuracy=max(job.least_accuracy for job in jobs),
            lowest_level=lowest,
        )
        return guard

    def _accuracy(self, level: int) -> float | None:
        return self._session.levels[level].metrics.get(ACCURACY)
