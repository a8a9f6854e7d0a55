"""Scheduler: takes requests from any thread and answers each through a future; its workers run them."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from weakref import ref

from nested_sparse.argument import finite, real, whole
from nested_sparse.errors import InputError, StuckError, UnavailableError
from nested_sparse.forked import heed_forks
from nested_sparse.level import Level, resolve_level

from ..policy import Decision, LevelPolicy
from ..profiling import LatencyProfile
from ..resources import ResourceMonitor
from ..session import Guard
from .bare_error import bare
from .device import Device
from .dispatcher import Dispatcher
from .execution import Execution, Executor
from .job import Job, Terms, can_join, make_job
from .job_queue import JobQueue
from .refusals import Refusals
from .request import Request, Response
from .run_counts import RunCounts
from .runner import Runner
from .running_jobs import RunningJobs, Turn
from .stats import SchedulerStats
from .weakly import weakly

MAX_WORKERS = 4096
REPLY_MARGIN_MS = 2.0
# Clipper (NSDI'17) uses 0.92 of an SLO for the model and leaves the rest for everything else
REPLY_MARGIN_SHARE = 0.08
_LOGGER = logging.getLogger("nested_sparse.runtime")


class Scheduler:
    """Answers each request exactly once: the earliest deadline first, each at the level that the policy chooses.

    A future ends with a Response or with OverloadedError (shed, queue full), DeadlineError (expired: never run),
    UnavailableError (closing), StuckError (its run does not end), InputError, LevelError, or what the session raised. A
    cancelled request is not run unless its run has begun.

    A run has to end `reply_margin_ms` plus `reply_margin_share` of the request's time before its deadline. A request
    whose run cannot begin before that moment has expired.

    policy: chooses the levels; it must have been told the same number of workers.
    at_once_ms: a request that finds the device idle, and was profiled to take no longer, runs in the thread that
        submits it, before submit() returns: two changes of thread cost more than a short run. 0: all run in workers.
    joins: requests whose inputs differ in the batch only may run as one batch (Decision.take); None: they may if the
        session's file says that its rows are independent.
    guard: makes a thread's guard, which lowers a run that would be late while it runs; None: levels never fall.
    monitor: its last sample is in the log's lines.
    workers: number of threads that run the session; with 0 the caller runs it by serve_next().
    device: schedulers that share one take turns on it, by `priority` (higher first), then by deadline.
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
        at_once_ms: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        default_slo_ms = real("default_slo_ms", default_slo_ms, above=0.0)
        reply_margin_ms = finite("reply_margin_ms", reply_margin_ms)  # below 0 it takes the share back
        reply_margin_share = real("reply_margin_share", reply_margin_share, 0.0)
        self._at_once_ms = real("at_once_ms", at_once_ms, 0.0)
        max_queue, workers = whole("max_queue", max_queue, 1), whole("workers", workers, 0, MAX_WORKERS)
        if profile.level_count != len(session.levels):
            raise InputError(
                f"{session.name}: the profile has {profile.level_count} levels, the checkpoint {len(session.levels)}; "
                "measure it again"
            )
        self._session = session
        joins = can_join(session) if joins is None else joins
        self._terms = Terms(default_slo_ms, reply_margin_ms, reply_margin_share, joins)
        self._refusals = Refusals(profile, self._terms)
        self._clock = clock
        self._executor = Executor(session, profile, clock, guard)
        self._queue = JobQueue(max_queue, weakly(self._on_due) if workers else None, clock, default_slo_ms / 1e3)
        self._workers = max(workers, 1)
        self._device = Device(self._workers) if device is None else device
        self._turn = threading.Condition(self._device.lock)  # the workers wait on it, and close() does
        self._closing = self._inherited = False
        self._counts = RunCounts()
        self._when_done = weakly(self._done_with)  # futures have it: one that a program keeps must not keep this
        self._running = RunningJobs(weakly(self._on_stuck) if workers else None, clock)
        self._dispatcher = Dispatcher(
            session.name,
            policy,
            profile,
            queue=self._queue,
            refusals=self._refusals,
            executor=self._executor,
            device=self._device,
            monitor=monitor,
            workers=self._workers,
            priority=whole("priority", priority, -sys.maxsize),
            clock=clock,
            wake=weakly(self._wake),
        )
        with self._device.lock:
            self._device.join(self._dispatcher)
        self._threads = [
            threading.Thread(target=self._work, name=f"{session.name}-{i}", daemon=True) for i in range(workers)
        ]
        for thread in self._threads:
            thread.start()
        heed_forks(self)

    def forget(self) -> None:
        """As Inheritable: the workers and their runs are those of the parent process."""
        self._device.lock = threading.RLock()
        self._inherited = bool(self._threads)

    @property
    def levels(self) -> Sequence[Level]:
        """The session's levels."""
        return self._session.levels

    def submit(self, request: Request) -> Future[Response]:
        """Queue a request, or run it where at_once_ms allows. It never raises: an error is in the future."""
        try:
            answer = self.run_or_queue(request)
        except Exception as error:  # our own errors, or a fault of the pluggable policy
            failed: Future[Response] = Future()
            failed.set_exception(bare(error))
            return failed
        if isinstance(answer, Future):
            return answer
        done: Future[Response] = Future()
        done.set_result(answer)
        return done

    def run_or_queue(self, request: Request) -> Response | Future[Response]:
        """As submit(), but a future is made for a request that waits alone.

        One that runs at once has its response. Raises the error of one that is refused, or that fails at once.
        """
        job = make_job(self._session, request, self._terms, self._clock())
        turn = self._admit(job)
        answer = job.future
        if turn is not None:
            self._serve((), turn)
        if isinstance(answer, Future):
            answer.add_done_callback(partial(self._when_done, ref(job)))
            return answer
        return answer.taken()

    def serve_next(self) -> bool:
        """End the expired requests, then run or shed the request that is due first. False if there were none."""
        expired, turn = self._take()
        self._serve(expired, turn)
        return bool(expired) or turn is not None

    def limit(self, highest_level: int, reason: str) -> None:
        """Let no request run denser from now on, except those that ask for a level or an accuracy above.

        reason: cause of the limit, in words, for the log and the responses.
        """
        index = resolve_level(highest_level, len(self._session.levels))
        with self._device.lock:
            self._dispatcher.limit(index, reason)

    def change(self, *, default_slo_ms: float, priority: int) -> None:
        """Give the requests that come from now on another time, and the model another priority on the device."""
        terms = replace(self._terms, default_slo_ms=real("default_slo_ms", default_slo_ms, above=0.0))
        priority = whole("priority", priority, -sys.maxsize)
        with self._device.lock:
            self._terms = self._refusals.terms = terms
            self._dispatcher.priority = priority
            self._device.wake()

    def hopeless(self, level: int) -> str | None:
        """The reason why no request of `default_slo_ms` can ever be served at `level`; None where one can."""
        return self._refusals.hopeless(self._terms.default_slo_ms, level)

    def replied(self, response: Response) -> None:
        """Note that a response has reached the thread that sends it, which may have waited for a core."""
        with self._device.lock:
            self._dispatcher.replied(response.ended_s, self._clock())

    def stats(self) -> SchedulerStats:
        """How the scheduler stands now."""
        with self._device.lock:
            return SchedulerStats(
                len(self._queue),
                self._dispatcher.slowdown_factor(),
                self._running.stuck_count,
                self._counts.total,
                dict(self._counts.by_samples),
            )

    def close(self, grace_s: float = 5.0) -> None:
        """Take no more requests, serve the queue for up to `grace_s`, and fail the rest with UnavailableError.

        It returns when no run is under way, except stuck ones. It may be called again.
        """
        if self._inherited:
            return
        grace_s = min(real("grace_s", grace_s, 0.0), threading.TIMEOUT_MAX)
        with self._device.lock:
            self._closing = True
            self._turn.notify_all()
            if self._threads:
                self._turn.wait_for(lambda: not len(self._queue), timeout=grace_s)
        if not self._threads:
            end_s = self._clock() + grace_s
            while self._clock() < end_s and self.serve_next():
                pass
        with self._device.lock:
            left = self._queue.clear()
            self._turn.notify_all()
            self._device.leave(self._dispatcher)
        for job in left:
            self._end(job, UnavailableError("the server is shutting down; send the request to another one"))
        for thread in self._threads:
            while thread.is_alive() and not self._running.stuck_count:
                thread.join(timeout=0.1)
        self._queue.close()
        self._running.close()

    def _admit(self, job: Job) -> Turn | None:
        """Queue a job; or its turn, where it runs at once."""
        left: list[Job] = []
        try:
            with self._device.lock:
                self._check_open()
                turn = None
                try:
                    turn = self._dispatcher.admit(job, self._clock(), left, self._at_once_ms)
                finally:
                    if turn is None:  # a queue has changed
                        self._device.wake()
                return turn
        finally:
            for each in left:
                self._end(each, self._refusals.over_its_share(each, self._clock()))

    def _check_open(self) -> None:
        if self._inherited:
            raise UnavailableError("this scheduler's threads are those of the process that forked this one")
        if self._closing:
            raise UnavailableError("the server is shutting down; send the request to another one")
        if self._running.stuck_count >= self._workers:
            raise StuckError("every inference under way is stuck; send the request to another server")

    def _on_due(self, job: Job) -> None:
        """Tell the client of a request that it has expired, while every worker is busy."""
        with self._device.lock:
            waited = self._queue.leave(job)
            self._pass_on()
        if waited:
            self._end(job, self._refusals.expired(job, self._clock()))

    def _serve(self, expired: Sequence[Job], turn: Turn | None) -> None:
        for job in expired:
            self._end(job, self._refusals.expired(job, self._clock()))
        if turn is None:
            return
        decision = turn.decision
        if isinstance(decision, Exception):
            turn.jobs[0].future.set_exception(decision)
        elif decision.level is None:
            turn.jobs[0].future.set_exception(self._refusals.shed(turn.jobs[0], decision))
        else:
            self._run(turn, decision, decision.level)

    def _take(self) -> tuple[list[Job], Turn | None]:
        """The jobs that have expired, and the turn that runs next."""
        with self._device.lock:
            now_s = self._clock()
            taken = self._queue.pop_expired(now_s), self._dispatcher.next_turn(now_s)
            self._pass_on()
            return taken

    def _run(self, turn: Turn, decision: Decision, level: int) -> None:
        self._running.begin(turn, decision.predicted_ms)
        try:
            done = self._executor.run(turn.jobs, level, turn.slowdown)
        except Exception as error:  # of any kind: it is the client's answer, and the worker goes on
            if self._finish(turn):
                self._failed_run(turn, decision, level, error)
            return
        if not self._finish(turn, done, level):
            return
        for job, outputs in zip(turn.jobs, done.outputs, strict=True):
            job.future.set_result(done.response(job, outputs, self._session.levels[done.level], decision.reason))

    def _finish(self, turn: Turn, done: Execution | None = None, level: int = 0) -> bool:
        """Take note that the run has ended; False where its requests were told that it is stuck.

        done: its result, where it has one. level: that it began at.
        """
        waited_for = self._running.finish(turn)
        with self._device.lock:
            self._device.end(turn)
            if waited_for and done is not None:
                self._dispatcher.learn(turn, level, done)
                self._counts.add(done.batch, round((done.ended_s - done.started_s) * 1e9))
        return waited_for

    def _on_stuck(self, turn: Turn, elapsed_s: float) -> None:
        """Answer the requests of a stuck run and give its slot to other models. Its worker returns when it ends.

        The run is told to end. It does so before its next operator; an operator that never ends keeps the worker.
        """
        with self._device.lock:
            self._device.end(turn)
        self._session.stop_run(turn.thread, time.monotonic() - elapsed_s / 2)
        _LOGGER.error("%s: a run has not ended for %.1f s", self._session.name, elapsed_s)
        for job in turn.jobs:
            job.future.set_exception(StuckError(f"the inference has run for {elapsed_s:.1f} s and does not end"))

    def _failed_run(self, turn: Turn, decision: Decision, level: int, error: Exception) -> None:
        """Answer a job with the error of its run. The jobs of a batch run again alone: one of them may be at fault."""
        if len(turn.jobs) == 1:
            turn.jobs[0].future.set_exception(bare(error))
            return
        for job in turn.jobs:
            if job.waiting.deadline_s <= self._clock():
                job.future.set_exception(self._refusals.expired(job, self._clock()))
            else:
                alone = Turn([job], decision, turn.slowdown)
                with self._device.lock:
                    self._device.begin(alone, self._clock() + decision.predicted_ms / 1e3)
                self._run(alone, decision, level)

    def _work(self) -> None:
        while True:
            with self._turn:
                self._turn.wait_for(lambda: self._device.is_turn_of(self._dispatcher) or self._done)
                if self._done:
                    return
                taken = self._take()
            self._serve(*taken)
            del taken  # a worker that waits keeps no request

    @property
    def _done(self) -> bool:
        return self._closing and not len(self._queue)

    def _done_with(self, job_of: ref[Job], done: Future[Response]) -> None:
        """Free the place in the queue of a job that its client has cancelled.

        job_of: gives the job, which the future may not hold: the job holds the future.
        """
        job = job_of() if done.cancelled() else None
        if job is None:
            return
        with self._device.lock:
            waited = self._queue.leave(job)
            if waited:
                self._pass_on()
        if waited:
            done.set_running_or_notify_cancel()  # or concurrent.futures.wait() would wait on

    def _pass_on(self) -> None:
        """Wake those that may go on, after requests have left the queue: the model that is next now, or close()."""
        self._device.wake()
        if self._closing:
            self._wake()

    def _wake(self) -> None:
        """As Tenant."""
        if self._inherited or not self._threads:  # nothing waits; in a forked child the condition has another lock
            return
        if self._closing:  # close() waits, too, and could be the one that notify() wakes
            self._turn.notify_all()
        else:
            self._turn.notify()

    def _end(self, job: Job, error: Exception) -> None:
        """Fail a job that was taken from the queue unrun, unless its client has cancelled it."""
        if job.is_wanted():
            job.future.set_exception(error)
