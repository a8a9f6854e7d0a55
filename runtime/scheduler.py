"""Scheduler: runs requests, earliest deadline first, each at the level its policy chooses when its turn comes."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

from nested_sparse.errors import DeadlineError, InputError, OverloadedError, UnavailableError
from nested_sparse.level import Level
from nested_sparse.runtime.forecast import Decision, Waiting
from nested_sparse.runtime.level_log import LevelLog
from nested_sparse.runtime.monitor import ResourceMonitor
from nested_sparse.runtime.policy import LevelPolicy
from nested_sparse.runtime.profile import LatencyProfile, Profilable
from nested_sparse.runtime.request import Request, Response, allowed_levels, allowed_slo_ms
from nested_sparse.runtime.request_queue import RequestQueue, Ticket
from nested_sparse.runtime.stats import SchedulerStats
from nested_sparse.runtime.tensors import Array, batch_size, check_inputs

REPLY_MARGIN_MS = 2.0
# Clipper (NSDI'17) uses 0.92 of an SLO for the model and leaves the rest for everything else
REPLY_MARGIN_SHARE = 0.08
Runner = Profilable
_LOGGER = logging.getLogger("nested_sparse.runtime")
__all__ = ["Scheduler", "SchedulerStats"]


@dataclass(eq=False, slots=True)
class _Job:
    inputs: dict[str, Array]
    future: Future[Response]
    waiting: Waiting
    received_s: float
    due_s: float
    ticket: Ticket | None = None


class Scheduler:
    """Takes requests from any thread, answers each exactly once through its future.

    A future ends with a Response or with OverloadedError (shed, queue full), DeadlineError (expired: never run),
    UnavailableError (closing), InputError, LevelError, or what the session raised. A cancelled one is not run unless
    it has begun.

    A run has to end `reply_margin_ms` plus 8 % of the request's time before its deadline; one that could not be begun
    before that has expired. `workers` threads run the session; with 0 the caller drives it by serve_next(). Tell the
    policy the same number.
    """

    def __init__(
        self,
        session: Runner,
        profile: LatencyProfile,
        policy: LevelPolicy,
        *,
        default_slo_ms: float,
        reply_margin_ms: float = REPLY_MARGIN_MS,
        max_queue: int = 256,
        workers: int = 1,
        monitor: ResourceMonitor | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not default_slo_ms > 0:
            raise InputError(f"default_slo_ms: expected a number above 0, got {default_slo_ms}")
        if profile.level_count != len(session.levels):
            raise InputError(
                f"{session.name}: the profile has {profile.level_count} levels, the checkpoint {len(session.levels)}; "
                "measure it again"
            )
        self._session = session
        self._policy = policy
        self._default_slo_ms = default_slo_ms
        self._reply_margin_ms = reply_margin_ms
        self._clock = clock
        self._log = LevelLog(session.name, monitor)
        self._queue: RequestQueue[_Job] = RequestQueue(max_queue)
        self._changed = threading.Condition()
        self._closing = False
        self._ends_s: dict[int, float] = {}  # predicted end of each run under way, by id of its job
        self._served = [0] * len(session.levels)
        self._counts = dict.fromkeys(("late", "shed", "expired", "failed", "cancelled"), 0)
        self._workers = max(workers, 1)
        self._threads = [
            threading.Thread(target=self._work, name=f"{session.name}-{i}", daemon=True) for i in range(workers)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def levels(self) -> Sequence[Level]:
        """The session's levels."""
        return self._session.levels

    def submit(self, request: Request) -> Future[Response]:
        """Queues a request. Never raises and never waits: what is wrong with it is in the future."""
        future: Future[Response] = Future()
        try:
            job = self._job(request, future)
            self._enqueue(job)
        except Exception as error:  # our own errors, or a fault of the pluggable policy
            self._fail(future, error)
        else:
            future.add_done_callback(lambda done: self._forget(job) if done.cancelled() else None)
        return future

    def serve_next(self) -> bool:
        """Ends what has expired, then runs or sheds the request that is due first. False if there was nothing to do."""
        expired, job, decision = self._take()
        for late in expired:
            self._expire(late)
        if job is None:
            return bool(expired)
        if isinstance(decision, Exception):
            self._fail(job.future, decision)
        elif decision is not None and decision.level is None:
            self._fail(job.future, OverloadedError(decision.reason, decision.retry_after_ms))
        elif decision is not None and decision.level is not None:
            self._run(job, decision, decision.level)
        return True

    def stats(self) -> SchedulerStats:
        """Counts and state."""
        with self._changed:
            return SchedulerStats(
                served=tuple(self._served),
                queue_length=len(self._queue),
                slowdown=self._policy.slowdown_factor(self._clock()),
                **self._counts,
            )

    def close(self, grace_s: float = 5.0) -> None:
        """Takes no more requests, works off the queue for up to `grace_s`, fails what is left with UnavailableError.

        Returns when no run is under way. May be called again.
        """
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
        for job in left:
            self._end(job, UnavailableError("the server is shutting down; send the request to another one"))
        for thread in self._threads:
            thread.join()

    def _job(self, request: Request, future: Future[Response]) -> _Job:
        inputs = check_inputs(self._session.inputs, request.inputs)
        lowest, highest = allowed_levels(request, self._session.levels)
        slo_ms = allowed_slo_ms(request, self._default_slo_ms)
        received_s = self._clock() if request.received_s is None else request.received_s
        budget_ms = slo_ms * (1.0 - REPLY_MARGIN_SHARE) - self._reply_margin_ms
        waiting = Waiting(
            deadline_s=received_s + budget_ms / 1e3,
            lowest_level=lowest,
            highest_level=highest,
            batch=batch_size(self._session.inputs, inputs),
            budget_ms=budget_ms,
        )
        return _Job(inputs, future, waiting, received_s, received_s + slo_ms / 1e3)

    def _enqueue(self, job: _Job) -> None:
        with self._changed:
            if self._closing:
                raise UnavailableError("the server is shutting down; send the request to another one")
            now_s = self._clock()
            if job.waiting.deadline_s <= now_s:
                raise _too_late(job, now_s)
            queue = [each.waiting for each in self._queue.items()]
            decision = self._policy.admit(job.waiting, queue, self._busy_ms(now_s), now_s)
            if decision.level is None:
                raise OverloadedError(decision.reason, decision.retry_after_ms)
            job.ticket = self._queue.push(job.waiting.deadline_s, job)
            if job.ticket is None:
                raise OverloadedError(
                    f"shed: {len(queue)} requests are waiting already", max(1.0, decision.predicted_ms)
                )
            self._changed.notify()

    def _take(self) -> tuple[list[_Job], _Job | None, Decision | Exception | None]:
        """What expired, and the next job with its decision; a job whose client cancelled it comes without one."""
        with self._changed:
            now_s = self._clock()
            expired = self._queue.pop_expired(now_s)
            job = self._queue.pop(now_s)
            if self._closing:
                self._changed.notify_all()
            if job is None:
                return expired, None, None
            if not job.future.set_running_or_notify_cancel():
                self._counts["cancelled"] += 1
                return expired, job, None
            try:
                return expired, job, self._decide(job, now_s)
            except Exception as error:  # the policy is pluggable, and the worker must outlive it
                return expired, job, error

    def _decide(self, job: _Job, now_s: float) -> Decision:
        decision = self._policy.choose(job.waiting, [each.waiting for each in self._queue.items()], now_s)
        if decision.level is not None:
            slowdown = self._policy.slowdown_factor(now_s)
            self._log.note(decision.level, decision.reason, slowdown, len(self._queue), now_s)
            self._ends_s[id(job)] = now_s + decision.predicted_ms / 1e3
        return decision

    def _run(self, job: _Job, decision: Decision, level: int) -> None:
        started_s = self._clock()
        try:
            outputs = self._session.run(job.inputs, level)
        except Exception as error:  # whatever it was, it is the client's answer and the worker goes on
            with self._changed:
                self._ends_s.pop(id(job), None)
            self._fail(job.future, error)
            return
        ended_s = self._clock()
        compute_ms = (ended_s - started_s) * 1e3
        with self._changed:
            self._ends_s.pop(id(job), None)
            self._served[level] += 1
            self._counts["late"] += ended_s > job.due_s
            self._observe(level, job.waiting.batch, compute_ms, ended_s)
        queue_us = round((started_s - job.received_s) * 1e6)
        response = Response(outputs, self._session.levels[level], queue_us, round(compute_ms * 1e3), decision.reason)
        job.future.set_result(response)

    def _observe(self, level: int, batch: int, compute_ms: float, now_s: float) -> None:
        try:
            self._policy.observe(level, batch, compute_ms, now_s)
        except Exception:  # the request was served: a fault of the pluggable policy must not take its answer away
            _LOGGER.exception("%s: the policy failed to take in a run at level %d", self._session.name, level)

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: len(self._queue) or self._closing)
                if not len(self._queue):
                    return
            self.serve_next()

    def _busy_ms(self, now_s: float) -> float:
        """Predicted time until a worker is free."""
        if len(self._ends_s) < self._workers:
            return 0.0
        return max(0.0, (min(self._ends_s.values()) - now_s) * 1e3)

    def _forget(self, job: _Job) -> None:
        """The client cancelled: the place in the queue is free at once."""
        with self._changed:
            if job.ticket is not None and self._queue.cancel(job.ticket):
                self._counts["cancelled"] += 1
                self._changed.notify_all()

    def _expire(self, job: _Job) -> None:
        self._end(job, _too_late(job, self._clock()))

    def _end(self, job: _Job, error: Exception) -> None:
        """Fails a job that was taken from the queue unrun."""
        if job.future.set_running_or_notify_cancel():
            self._fail(job.future, error)
        else:
            with self._changed:
                self._counts["cancelled"] += 1

    def _fail(self, future: Future[Response], error: Exception) -> None:
        kind = (
            "shed"
            if isinstance(error, OverloadedError)
            else "expired"
            if isinstance(error, DeadlineError)
            else "failed"
        )
        with self._changed:
            self._counts[kind] += 1
        future.set_exception(error)


def _too_late(job: _Job, now_s: float) -> DeadlineError:
    waited_ms = (now_s - job.received_s) * 1e3
    slo_ms = (job.due_s - job.received_s) * 1e3
    return DeadlineError(
        f"expired: {waited_ms:.1f} ms after it came in, {slo_ms:.1f} ms were allowed, reply margin included"
    )
