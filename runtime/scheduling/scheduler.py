"""Scheduler: runs requests, earliest deadline first, each at the level its policy chooses when its turn comes."""

from __future__ import annotations

import logging
import math
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace

from nested_sparse.argument import finite, real, whole
from nested_sparse.errors import DeadlineError, InputError, OverloadedError, StuckError, UnavailableError
from nested_sparse.forked import heed_forks
from nested_sparse.level import Level, resolve_level

from ..policy import Decision, LevelPolicy, Waiting
from ..profiling import LatencyProfile
from ..resources import ResourceMonitor
from ..session import Guard
from .device import Device
from .execution import Execution, Executor
from .job import Job, Terms, can_join, make_job, too_late
from .job_queue import JobQueue
from .level_log import LevelLog
from .request import Request, Response
from .runner import Runner
from .running_jobs import RunningJobs, Turn
from .stats import SchedulerStats

MAX_WORKERS = 4096
REPLY_MARGIN_MS = 2.0
# Clipper (NSDI'17) uses 0.92 of an SLO for the model and leaves the rest for everything else
REPLY_MARGIN_SHARE = 0.08
_LOGGER = logging.getLogger("nested_sparse.runtime")
__all__ = ["Scheduler", "SchedulerStats"]


class Scheduler:
    """Takes requests from any thread, answers each exactly once through its future.

    A future ends with a Response or with OverloadedError (shed, queue full), DeadlineError (expired: never run),
    UnavailableError (closing), StuckError (its run does not end), InputError, LevelError, or what the session raised. A
    cancelled one is not run unless it has begun.

    A run has to end `reply_margin_ms` plus `reply_margin_share` of the request's time before its deadline; one that
    could not be begun before that has expired. Requests whose inputs differ in the batch only may run as one
    (Decision.take) if `joins`; None: if the session's file says that its rows are independent. `guard` makes a thread's
    guard (RouteGuard), which lowers a run that would be late while it is under way. What `monitor` last sampled (a
    Governor's, say) is in the log's lines.

    `workers` threads run the session; with 0 the caller drives it by serve_next(). Tell the policy the same number.
    Schedulers that share a `device` take turns on it: by `priority`, higher first, then by deadline.
    """

    def __init__(
        self,
        session: Runner,
        profile: LatencyProfile,
        policy: LevelPolicy,
        *,
        default_slo_ms: float,
        reply_margin_ms: float = REPLY_MARGIN_MS,
        reply_margin_share: float = REPLY_MARGIN_SHARE,
        max_queue: int = 256,
        workers: int = 1,
        monitor: ResourceMonitor | None = None,
        guard: Callable[[], Guard] | None = None,
        device: Device | None = None,
        priority: int = 0,
        joins: bool | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        default_slo_ms = real("default_slo_ms", default_slo_ms, above=0.0)
        reply_margin_ms = finite("reply_margin_ms", reply_margin_ms)  # below 0 it takes the share back
        reply_margin_share = real("reply_margin_share", reply_margin_share, 0.0)
        max_queue, workers = whole("max_queue", max_queue, 1), whole("workers", workers, 0, MAX_WORKERS)
        if profile.level_count != len(session.levels):
            raise InputError(
                f"{session.name}: the profile has {profile.level_count} levels, the checkpoint {len(session.levels)}; "
                "measure it again"
            )
        self.priority = whole("priority", priority, -sys.maxsize)
        self._session = session
        self._profile = profile
        self._policy = policy
        joins = can_join(session) if joins is None else joins
        self._terms = Terms(default_slo_ms, reply_margin_ms, reply_margin_share, joins)
        self._clock = clock
        self._log = LevelLog(session.name, monitor)
        self._executor = Executor(session, profile, clock, guard)
        self._queue = JobQueue(max_queue, self._on_due if workers else None, clock)
        self._workers = max(workers, 1)
        self._device = Device(self._workers) if device is None else device
        self._changed = self._device.changed
        self._closing = False
        self._ended_s = -math.inf
        self._under_way = RunningJobs(self._on_stuck if workers else None, clock)
        self._limit = (len(session.levels) - 1, "")
        self._present_level = len(session.levels) - 1
        self._served = [0] * len(session.levels)
        self._counts = dict.fromkeys(("shed", "expired", "failed", "cancelled", "lowered", "batched"), 0)
        with self._changed:
            self._device.join(self)
        self._threads = [
            threading.Thread(target=self._work, name=f"{session.name}-{i}", daemon=True) for i in range(workers)
        ]
        for thread in self._threads:
            thread.start()
        self._inherited = False
        heed_forks(self)

    def forget(self) -> None:
        """As Inheritable: the workers, and what they have under way, are the parent's."""
        self._changed = self._device.changed = threading.Condition()
        self._inherited = bool(self._threads)

    @property
    def levels(self) -> Sequence[Level]:
        """The session's levels."""
        return self._session.levels

    def submit(self, request: Request) -> Future[Response]:
        """Queues a request. Never raises and never waits: what is wrong with it is in the future."""
        future: Future[Response] = Future()
        try:
            job = make_job(self._session, request, future, self._terms, self._clock())
            self._enqueue(job)
        except Exception as error:  # our own errors, or a fault of the pluggable policy
            self._fail(future, error)
        else:
            future.add_done_callback(lambda done: self._forget(job) if done.cancelled() else None)
        return future

    def serve_next(self) -> bool:
        """Ends what has expired, then runs or sheds the request that is due first. False if there was nothing to do."""
        expired, turn = self._take()
        self._serve(expired, turn)
        return bool(expired) or turn is not None

    def limit(self, highest_level: int, reason: str) -> None:
        """From now on no request runs denser, but for those that ask for a level or an accuracy above."""
        index = resolve_level(highest_level, len(self._session.levels))
        with self._changed:
            self._limit = (index, reason)

    def stats(self) -> SchedulerStats:
        """Counts and state."""
        with self._changed:
            return SchedulerStats(
                served=tuple(self._served),
                queue_length=len(self._queue),
                slowdown=self._policy.slowdown_factor(self._clock()),
                stuck=self._under_way.stuck_count,
                **self._counts,
            )

    def close(self, grace_s: float = 5.0) -> None:
        """Takes no more requests, works off the queue for up to `grace_s`, fails what is left with UnavailableError.

        Returns when no run is under way but such as are stuck. May be called again.
        """
        if self._inherited:
            return
        grace_s = min(real("grace_s", grace_s, 0.0), threading.TIMEOUT_MAX)
        with self._changed:
            self._closing = True
            self._changed.notify_all()
            if self._threads:
                self._changed.wait_for(lambda: not len(self._queue), timeout=grace_s)
        if not self._threads:
            end_s = self._clock() + grace_s
            while self._clock() < end_s and self.serve_next():
                pass
        with self._changed:
            left = self._queue.clear()
            self._device.leave(self)
        for job in left:
            self._end(job, UnavailableError("the server is shutting down; send the request to another one"))
        for thread in self._threads:
            while thread.is_alive() and not self._under_way.stuck_count:
                thread.join(timeout=0.1)
        self._queue.close()
        self._under_way.close()

    def first_due_s(self) -> float | None:
        """As Tenant."""
        return self._queue.first_due_s()

    def waiting(self) -> list[Waiting]:
        """As Tenant."""
        return self._queue.waiting()

    def tighten_deadline(self, left_ms: float) -> None:
        """As Tenant."""
        self._executor.tighten_deadline(left_ms)

    def usual_ms(self, waiting: Waiting) -> float:
        """As Tenant."""
        present = min(max(self._present_level, waiting.lowest_level), waiting.highest_level)
        # half way down: two models that each reckoned with the other's present level would take turns at the lowest
        levels_ms = [self._profile.predict_ms(level, waiting.batch) for level in (present, waiting.lowest_level)]
        return sum(levels_ms) / 2 * self._policy.slowdown_factor(self._clock())

    def _enqueue(self, job: Job) -> None:
        with self._changed:
            if self._inherited:
                raise UnavailableError("this scheduler's threads are those of the process that forked this one")
            if self._closing:
                raise UnavailableError("the server is shutting down; send the request to another one")
            if self._under_way.stuck_count >= self._workers:
                raise StuckError("every inference under way is stuck; send the request to another server")
            now_s = self._clock()
            if job.waiting.deadline_s <= now_s:
                raise too_late(job, now_s)
            queue = self._device.queue_of(self, self._policy.slowdown_factor(now_s))
            decision = self._policy.admit(job.waiting, queue, self._device.busy_ms(now_s), now_s)
            if decision.level is None:
                raise OverloadedError(decision.reason, decision.retry_after_ms)
            if not self._queue.enter(job, now_s):
                raise OverloadedError(
                    f"shed: {len(self._queue)} requests are waiting already", max(1.0, decision.predicted_ms)
                )
            self._make_room(now_s)
            self._changed.notify_all()

    def _on_due(self, job: Job) -> None:
        """A request has expired while every worker was busy: its client is told so now."""
        with self._changed:
            waited = self._queue.leave(job)
        if waited:
            self._end(job, too_late(job, self._clock()))

    def _make_room(self, now_s: float) -> None:
        """Has the run under way lowered where it would make something in the queue late."""
        busy_ms = self._device.busy_ms(now_s)
        if busy_ms > 0:
            queue = self._device.queue_of(self, self._policy.slowdown_factor(now_s))
            spare_ms = self._policy.spare_ms(queue, now_s)
            if spare_ms < busy_ms:
                self._device.tighten_deadline(self, max(spare_ms, 0.0))

    def _serve(self, expired: Sequence[Job], turn: Turn | None) -> None:
        for late in expired:
            self._end(late, too_late(late, self._clock()))
        if turn is None:
            return
        decision = turn.decision
        if isinstance(decision, Exception):
            self._fail(turn.jobs[0].future, decision)
        elif decision.level is None:
            self._fail(turn.jobs[0].future, OverloadedError(decision.reason, decision.retry_after_ms))
        else:
            self._run(turn, decision, decision.level)

    def _take(self) -> tuple[list[Job], Turn | None]:
        """What expired, and what runs next; jobs that their clients cancelled are counted and gone."""
        with self._changed:
            now_s = self._clock()
            expired = self._queue.pop_expired(now_s)
            if self._closing:
                self._changed.notify_all()
            while (job := self._queue.pop(now_s)) is not None:
                if job.future.set_running_or_notify_cancel():
                    return expired, self._turn(job, now_s)
                self._counts["cancelled"] += 1
            return expired, None

    def _turn(self, job: Job, now_s: float) -> Turn:
        try:
            slowdown = self._policy.slowdown_factor(now_s)
            decision = self._policy.choose(self._limited(job.waiting), self._device.queue_of(self, slowdown), now_s)
        except Exception as error:  # the policy is pluggable, and the worker must outlive it
            return Turn([job], error)
        level = decision.level
        if level is None:
            return Turn([job], decision)
        highest, cause = self._limit
        if level == highest < job.waiting.highest_level:
            decision = replace(decision, reason=f"capped by {cause}; {decision.reason}")
        jobs = [job, *self._joining(job, decision.take - 1)]
        if job.leaves_choice(level):
            self._present_level = level
            self._log.note(level, decision.reason, slowdown, len(self._queue), now_s)
        turn = Turn(jobs, decision, slowdown)
        self._device.begin(turn, now_s + decision.predicted_ms / 1e3)
        return turn

    def _limited(self, waiting: Waiting) -> Waiting:
        """What the request allows, within the limit where the request leaves a choice."""
        highest, _ = self._limit
        if waiting.highest_level <= highest:
            return waiting
        return replace(waiting, highest_level=max(highest, waiting.lowest_level))

    def _joining(self, first: Job, count: int) -> list[Job]:
        """Takes up to `count` jobs from the head of the queue that run in one batch with `first`."""
        jobs: list[Job] = []
        while len(jobs) < count and (job := self._queue.pop_like(first)) is not None:
            if job.future.set_running_or_notify_cancel():
                jobs.append(job)
            else:
                self._counts["cancelled"] += 1
        return jobs

    def _run(self, turn: Turn, decision: Decision, level: int) -> None:
        self._under_way.begin(turn, decision.predicted_ms)
        try:
            done = self._executor.run(turn.jobs, level, turn.slowdown)
        except Exception as error:  # whatever it was, it is the client's answer and the worker goes on
            if self._finish(turn):
                self._failed_run(turn, decision, level, error)
            return
        if not self._finish(turn):
            return
        with self._changed:
            self._count(turn.jobs, done, level)
        batch = sum(job.waiting.batch for job in turn.jobs)
        for job, outputs in zip(turn.jobs, done.outputs, strict=True):
            job.future.set_result(
                Response(
                    outputs=outputs,
                    level=self._session.levels[done.level],
                    queue_us=round((done.started_s - job.received_s) * 1e6),
                    compute_us=round((done.ended_s - done.started_s) * 1e6),
                    reason=decision.reason,
                    time_limit_ms=job.time_limit_ms,
                    batch=batch,
                    lowering=done.lowering,
                )
            )

    def _finish(self, turn: Turn) -> bool:
        """The run has ended; whether its requests still wait for it."""
        waited_for = self._under_way.finish(turn)
        with self._changed:
            self._device.end(turn)
        return waited_for

    def _on_stuck(self, turn: Turn, elapsed_s: float) -> None:
        """Its requests are answered and its slot goes to other models; its worker comes back when the run has ended.

        It is told to end, but one operator may still never.
        """
        with self._changed:
            self._device.end(turn)
        self._session.stop_run(turn.thread, time.monotonic() - elapsed_s / 2)
        _LOGGER.error("%s: a run has not ended for %.1f s", self._session.name, elapsed_s)
        for job in turn.jobs:
            self._fail(job.future, StuckError(f"the inference has run for {elapsed_s:.1f} s and does not end"))

    def _failed_run(self, turn: Turn, decision: Decision, level: int, error: Exception) -> None:
        """One job's failure is its answer; of a batch each is tried alone, for only one of them may be at fault."""
        if len(turn.jobs) == 1:
            self._fail(turn.jobs[0].future, error)
            return
        for job in turn.jobs:
            if job.waiting.deadline_s <= self._clock():
                self._fail(job.future, too_late(job, self._clock()))
            else:
                alone = Turn([job], decision, turn.slowdown)
                with self._changed:
                    self._device.begin(alone, self._clock() + decision.predicted_ms / 1e3)
                self._run(alone, decision, level)

    def _count(self, jobs: Sequence[Job], done: Execution, level: int) -> None:
        self._served[done.level] += len(jobs)
        self._counts["lowered"] += len(jobs) * (done.lowering is not None)
        self._counts["batched"] += len(jobs) * (len(jobs) > 1)
        batch = sum(job.waiting.batch for job in jobs)
        # of a run that was lowered: as if the slowdown it saw had been that of a whole run at the first level
        whole_ms = (done.ended_s - done.started_s) * 1e3 * self._profile.predict_ms(level, batch) / done.nominal_ms
        gap_ms = (done.started_s - self._ended_s) * 1e3
        queued = jobs[0].entered_s < self._ended_s
        self._ended_s = done.ended_s
        try:
            # of several workers, or models, nobody knows which run it waited for
            if queued and self._workers == 1 and not self._device.shared:
                self._policy.observe_gap(gap_ms)
            self._policy.observe(level, batch, whole_ms, done.ended_s)
        except Exception:  # the request was served: a fault of the pluggable policy must not take its answer away
            _LOGGER.exception("%s: the policy failed to take in a run at level %d", self._session.name, level)

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._device.is_turn_of(self) or self._done)
                if self._done:
                    return
                taken = self._take()
            self._serve(*taken)

    @property
    def _done(self) -> bool:
        return self._closing and not len(self._queue)

    def _forget(self, job: Job) -> None:
        """The client cancelled: the place in the queue is free at once."""
        with self._changed:
            if self._queue.leave(job):
                self._counts["cancelled"] += 1
                self._changed.notify_all()

    def _end(self, job: Job, error: Exception) -> None:
        """Fails a job that was taken from the queue unrun."""
        if job.future.set_running_or_notify_cancel():
            self._fail(job.future, error)
        else:
            with self._changed:
                self._counts["cancelled"] += 1

    def _fail(self, future: Future[Response], error: Exception) -> None:
        kinds = {OverloadedError: "shed", DeadlineError: "expired"}
        kind = next((name for of, name in kinds.items() if isinstance(error, of)), "failed")
        with self._changed:
            self._counts[kind] += 1
        future.set_exception(error)
