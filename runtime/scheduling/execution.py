"""Execution: one run of a session for one or several requests. Its level falls on the way where it would be late."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from nested_sparse.errors import KernelError
from nested_sparse.level import Level
from nested_sparse.record import record

from ..profiling import LatencyProfile
from ..session import Guard, Lowering
from .job import Job, Outputs, joined, parted
from .request import Response
from .runner import Runner

SHORT_MS = 0.25
"""To lower a run that is shorter saves less than to arm a guard costs,"""
AMPLE = 20.0
"""unless it would be late already where it took so many times as long as predicted."""


@record(frozen=True, slots=True)
class Execution:
    """The result of one run.

    outputs: outputs of each job, in the order of the jobs.
    level: index of the level that the run ended at.
    lowering: where the level fell while the run was under way; None where it did not.
    nominal_ms: profiled time of the path that the run took.
    started_s, ended_s: readings of the clock. batch: samples that ran together.
    """

    outputs: Sequence[Outputs]
    level: int
    lowering: Lowering | None
    nominal_ms: float
    started_s: float
    ended_s: float
    batch: int

    def response(self, job: Job, outputs: Outputs, level: Level, reason: str) -> Response:
        """The answer to one of the jobs, with its outputs. reason: of the level that it was begun at."""
        return Response(
            outputs=outputs,
            level=level,
            queue_us=round((self.started_s - job.received_s) * 1e6),
            compute_us=round((self.ended_s - self.started_s) * 1e6),
            reason=reason,
            time_limit_ms=job.time_limit_ms,
            batch=self.batch,
            lowering=self.lowering,
            ended_s=self.ended_s,
        )


class Executor:
    """Runs jobs on a session, from any thread.

    guard: maker of a thread's guard; None: no level falls while a run is under way.
    """

    def __init__(
        self,
        session: Runner,
        profile: LatencyProfile,
        clock: Callable[[], float],
        guard: Callable[[], Guard] | None = None,
    ) -> None:
        self._session = session
        self._profile = profile
        self._clock = clock
        self._guard = guard
        self._local = threading.local()
        self._active: list[Guard] = []

    def run(self, jobs: Sequence[Job], level: int, slowdown: float) -> Execution:
        """Run `jobs` together, beginning at `level`. Raises what the session raises.

        slowdown: factor on profiled times.
        """
        first = jobs[0]
        batch = first.waiting.batch if len(jobs) == 1 else sum([job.waiting.batch for job in jobs])
        inputs = joined(jobs)
        guard = self._armed(jobs, level, batch, slowdown)
        started_s = self._clock()
        if guard is None:
            outputs = self._session.run(inputs, level)
        else:
            self._active.append(guard)
            try:
                outputs = self._session.run(inputs, level, guard)
            finally:
                self._active.remove(guard)
        ended_s = self._clock()
        parts = parted(outputs, jobs, self._session.outputs)
        if parts is None:
            raise KernelError(
                f"{self._session.name}: a batch of {batch} samples gave outputs {[a.shape for a in outputs.values()]}, "
                "which cannot be parted among its requests: not each output has a row for each sample; export it again"
            )
        lowering = None if guard is None else guard.lowering
        if guard is None or lowering is None:
            end, nominal_ms = level, self._profile.predict_ms(level, batch, first.waiting.sizes)
        else:
            end, nominal_ms = guard.level, guard.nominal_ms
        return Execution(
            outputs=parts,
            level=end,
            lowering=lowering,
            nominal_ms=nominal_ms,
            started_s=started_s,
            ended_s=ended_s,
            batch=batch,
        )

    def tighten_deadline(self, left_ms: float) -> None:
        """Have the runs under way whose level may fall end within `left_ms`. From any thread."""
        for guard in tuple(self._active):
            guard.tighten(left_ms)

    def _armed(self, jobs: Sequence[Job], level: int, batch: int, slowdown: float) -> Guard | None:
        """This thread's guard, ready for this run; None where the level may not fall."""
        if self._guard is None:
            return None
        first = jobs[0]
        lowest, deadline_s, fixed = first.waiting.lowest_level, first.waiting.deadline_s, first.fixed
        for job in jobs[1:]:
            lowest, deadline_s = max(lowest, job.waiting.lowest_level), min(deadline_s, job.waiting.deadline_s)
            fixed = fixed or job.fixed
        if level <= lowest or fixed:
            return None
        left_ms = (deadline_s - self._clock()) * 1e3
        sizes = first.waiting.sizes
        run_ms = self._profile.predict_ms(level, batch, sizes)
        if run_ms <= SHORT_MS and AMPLE * run_ms * slowdown <= left_ms:
            return None
        guard: Guard | None = getattr(self._local, "guard", None)
        if guard is None:
            guard = self._local.guard = self._guard()
        guard.arm(
            level,
            [self._profile.predict_ms(each, batch, sizes) for each in range(self._profile.level_count)],
            left_ms,
            slowdown,
            least_accuracy=max(job.least_accuracy for job in jobs),
            lowest_level=lowest,
        )
        return guard
