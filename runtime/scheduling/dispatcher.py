"""Dispatcher: the choice of the requests of a model that are taken in, of those that run next, and of their level."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from nested_sparse.errors import OverloadedError

from ..policy import Decision, LevelPolicy, Waiting
from ..profiling import LatencyProfile
from ..resources import ResourceMonitor
from .device import Device
from .execution import AMPLE, Execution, Executor
from .fair_share import ROOM_SHARE
from .job import Job
from .job_queue import JobQueue
from .level_log import LevelLog
from .refusals import Refusals
from .running_jobs import Turn

LONGER = 1.5
"""A run that takes so many times as long as predicted is news to the policy in any case."""
SETTLED_S = 0.005
"""Time for which a decision stands for short requests like the first one. It is as long as a few of them."""
_LOGGER = logging.getLogger("nested_sparse.runtime")


@dataclass(frozen=True, slots=True)
class _Settled:
    """A decision about a short request, and the requests that it stands for: those that allow the same levels.

    until_s: end of its time. least_slack_ms: time that they have at least, so much that nothing is left to choose.
    """

    decision: Decision
    slowdown: float
    lowest_level: int
    highest_level: int
    batch: int
    sizes: tuple[int, ...]
    until_s: float
    least_slack_ms: float

    def stands_for(self, waiting: Waiting, now_s: float) -> bool:
        return (
            now_s < self.until_s
            and waiting.highest_level == self.highest_level
            and waiting.lowest_level == self.lowest_level
            and waiting.batch == self.batch
            and waiting.sizes == self.sizes
            and waiting.slack_ms(now_s) >= self.least_slack_ms
        )


class Dispatcher:
    """Asks the policy about one model's requests, and is the model's Tenant on the device.

    It has no threads and ends no futures. Every method needs the device's lock, `device.lock`.

    name: the model's name, for the log. monitor: its last sample is in the log's lines; None: no sensors are logged.
    workers: number of runs that the model may have at once. priority: of the model on the device; higher goes first.
    wake: has one of the model's workers look whether it is its turn.
    """

    def __init__(
        self,
        name: str,
        policy: LevelPolicy,
        profile: LatencyProfile,
        *,
        queue: JobQueue,
        refusals: Refusals,
        executor: Executor,
        device: Device,
        monitor: ResourceMonitor | None,
        workers: int,
        priority: int,
        clock: Callable[[], float],
        wake: Callable[[], None],
    ) -> None:
        self.priority = priority
        self.wake = wake
        self._name = name
        self._queue = queue
        self._refusals = refusals
        self._policy = policy
        self._profile = profile
        self._executor = executor
        self._device = device
        self._log = LevelLog(name, monitor)
        self._workers = workers
        self._clock = clock
        self._highest_level, self._limited_by = profile.level_count - 1, ""
        self._present_level = profile.level_count - 1
        self._ended_s = -math.inf
        self._settled: _Settled | None = None

    def limit(self, highest_level: int, reason: str) -> None:
        """Let no request run denser from now on, except those that ask for a level or an accuracy above."""
        self._highest_level, self._limited_by, self._settled = highest_level, reason, None

    def slowdown_factor(self) -> float:
        """Predicted over profiled time of a run, now."""
        return self._policy.slowdown_factor(self._clock())

    def admit(self, job: Job, now_s: float, left: list[Job], at_once_ms: float = 0.0) -> Turn | None:
        """Queue `job`; or its turn, with the slot of the device, where it is next and takes at most `at_once_ms`.

        left: gets the jobs that make way for it, of clients that have more waiting; the caller ends them.
        Raises OverloadedError, DeadlineError, and what the policy raises.
        """
        if job.waiting.deadline_s <= now_s:
            raise self._refusals.expired(job, now_s)
        idle, settled = self._device.idle, self._settled
        if idle and settled is not None and settled.stands_for(job.waiting, now_s):
            self._policy.arrived(job.waiting, now_s)
            return self._settled_turn(job, settled, now_s)
        if not idle and self._queue.shares.others_than(job.client):
            left += self._share(job, now_s)
        queue = () if idle else self._device.queue_of(self, self._policy.slowdown_factor(now_s))
        decision = self._policy.admit(job.waiting, queue, self._device.busy_ms(now_s), now_s)
        if decision.level is None:
            raise self._refusals.shed(job, decision)
        # a slower device takes as many times as long to change threads, so the slowdown does not count
        if idle and at_once_ms > 0.0 and self._longest_ms(job.waiting) <= at_once_ms:
            return self._turn_at_once(job, now_s)
        job.wait()
        if not self._queue.enter(job, now_s):
            raise OverloadedError(
                f"shed: {len(self._queue)} requests are waiting already", max(1.0, decision.predicted_ms)
            )
        self._make_room(now_s)
        return None

    def next_turn(self, now_s: float) -> Turn | None:
        """Take the jobs that run next from the queue, with the slot of the device; None where nothing waits.

        Jobs that their clients have cancelled are dropped. An error of the policy is the turn's decision.
        """
        while (job := self._queue.pop(now_s)) is not None:
            if job.is_wanted():
                return self._turn(job, now_s)
        return None

    def learn(self, turn: Turn, level: int, done: Execution) -> None:
        """Tell the policy how long the run of `turn` took that began at `level`.

        A run whose decision was settled before is left out, unless it took longer than expected.
        """
        jobs = turn.jobs
        if turn.predicted_ms is not None and (done.ended_s - done.started_s) * 1e3 <= LONGER * turn.predicted_ms:
            self._ended_s = done.ended_s
            return
        self._settled = self._settled if turn.predicted_ms is None else None
        batch = sum(job.waiting.batch for job in jobs)
        gap_ms = (done.started_s - self._ended_s) * 1e3
        queued = jobs[0].entered_s < self._ended_s
        self._ended_s = done.ended_s
        try:
            # with several workers or models, the run that this one waited for is not known
            if queued and self._workers == 1 and not self._device.shared:
                self._policy.observe_gap(gap_ms, done.started_s)
            stopped_ms = self._policy.stopped_ms(done.started_s, done.ended_s, done.nominal_ms)
            ran_ms = (done.ended_s - done.started_s) * 1e3 - stopped_ms
            # the time of a run of the example's sizes whose level never fell, under the slowdown met
            whole_ms = ran_ms * self._profile.predict_ms(level, batch) / done.nominal_ms
            self._policy.observe(level, batch, whole_ms, done.ended_s)
        except Exception:  # the request was served: a fault of the pluggable policy must not take its answer away
            _LOGGER.exception("%s: the policy failed to take in a run at level %d", self._name, level)

    def replied(self, ended_s: float, now_s: float) -> None:
        """Tell the policy that the answer of a run that ended at `ended_s` can be sent now."""
        try:
            self._policy.observe_reply((now_s - ended_s) * 1e3, now_s)
        except Exception:  # as in learn()
            _LOGGER.exception("%s: the policy failed to take in a reply", self._name)

    def next_due(self) -> tuple[int, float] | None:
        """As Tenant."""
        return self._queue.next_due()

    def waiting(self) -> list[Waiting]:
        """As Tenant."""
        return self._queue.waiting()

    def tighten_deadline(self, left_ms: float) -> None:
        """As Tenant."""
        self._executor.tighten_deadline(left_ms)

    def usual_ms(self, waiting: Waiting) -> float:
        """As Tenant."""
        present = min(max(self._present_level, waiting.lowest_level), waiting.highest_level)
        # half way down: two models that each counted on the other's present level would take turns at the lowest one
        levels_ms = [
            self._profile.predict_ms(level, waiting.batch, waiting.sizes) for level in (present, waiting.lowest_level)
        ]
        return sum(levels_ms) / 2 * self._policy.slowdown_factor(self._clock())

    def _share(self, job: Job, now_s: float) -> list[Job]:
        """Take out jobs of clients that have more waiting, where they would make `job` late, or leave it no place.

        Raises OverloadedError where `job` would go before jobs of clients that have less, and make one of them late.
        """
        self._queue.shares.forget(now_s)
        shares, due, slowdown = self._queue.shares, job.waiting.due, self._policy.slowdown_factor(now_s)
        jobs, queue = self._queue.jobs(), self._device.queue_of(self, slowdown)
        cost_ms = partial(self._floor_ms, slowdown)
        slack_ms, busy_ms = job.waiting.slack_ms(now_s), self._device.busy_ms(now_s)
        through_ms = (
            busy_ms + cost_ms(job.waiting) + sum(cost_ms(each) for each in queue if each.first or each.due <= due)
        )
        leaving, excess_ms = shares.making_way(
            job, [each for each in jobs if each.waiting.due <= due], cost_ms, through_ms - ROOM_SHARE * slack_ms
        )
        if excess_ms > (1.0 - ROOM_SHARE) * slack_ms:  # it would be late all the same
            leaving = []
        if not leaving and self._queue.full:
            leaving, _ = shares.making_way(job, jobs, lambda _: 1.0, 1.0)
        # a job of a client with less must be through in its room, too, as long as it can be at all
        poorer = {id(each.waiting) for each in jobs if each.waiting.due > due and shares.has_less(each.client, job)}
        end_ms, own_ms = busy_ms, cost_ms(job.waiting)
        for each in queue if poorer else ():
            end_ms += cost_ms(each)
            left_ms = each.slack_ms(now_s)
            if id(each) in poorer and end_ms + own_ms > ROOM_SHARE * left_ms and busy_ms + cost_ms(each) <= left_ms:
                raise self._refusals.over_its_share(job, now_s)
        for leaver in leaving:
            self._queue.leave(leaver)
        return leaving

    def _floor_ms(self, slowdown: float, waiting: Waiting) -> float:
        """Time of a request at its lowest level, spread over the workers; slowdown: of now."""
        run_ms = self._profile.predict_ms(waiting.lowest_level, waiting.batch, waiting.sizes)
        return slowdown * (run_ms if waiting.foreign_ms is None else waiting.foreign_ms) / self._workers

    def _make_room(self, now_s: float) -> None:
        """Have the run under way lowered where it would make something in the queue late."""
        busy_ms = self._device.busy_ms(now_s)
        if busy_ms > 0:
            queue = self._device.queue_of(self, self._policy.slowdown_factor(now_s))
            spare_ms = self._policy.spare_ms(queue, now_s)
            if spare_ms < busy_ms:
                self._device.tighten_deadline(self, max(spare_ms, 0.0))

    def _settled_turn(self, job: Job, settled: _Settled, now_s: float) -> Turn:
        """The turn of a job that is alone, by the decision about one before it."""
        decision = settled.decision
        turn = Turn([job], decision, settled.slowdown, decision.predicted_ms)
        if decision.level is not None and job.leaves_choice(decision.level):
            self._log.note(decision.level, decision.reason, settled.slowdown, 0, now_s)
        self._queue.shares.serve(job, now_s)
        self._device.begin(turn, now_s + decision.predicted_ms / 1e3)
        return turn

    def _turn_at_once(self, job: Job, now_s: float) -> Turn:
        """The turn of a job that is alone. The decision stands for those that follow."""
        waiting = job.waiting
        turn = self._turn(job, now_s)
        self._settled = None
        if isinstance(turn.decision, Decision) and turn.decision.level is not None:
            self._settled = _Settled(
                turn.decision,
                turn.slowdown,
                waiting.lowest_level,
                waiting.highest_level,
                waiting.batch,
                waiting.sizes,
                now_s + SETTLED_S,
                AMPLE * turn.decision.predicted_ms,
            )
        return turn

    def _turn(self, job: Job, now_s: float) -> Turn:
        try:
            slowdown = self._policy.slowdown_factor(now_s)
            decision = self._policy.choose(self._limited(job.waiting), self._device.queue_of(self, slowdown), now_s)
        except Exception as error:  # the policy is pluggable, and the worker must outlive it
            return Turn([job], error)
        level = decision.level
        if level is None:
            return Turn([job], decision)
        if level == self._highest_level < job.waiting.highest_level:
            decision = replace(decision, reason=f"capped by {self._limited_by}; {decision.reason}")
        turn = Turn([job, *self._joining(job, decision.take - 1)], decision, slowdown)
        if job.leaves_choice(level):
            self._present_level = level
            self._log.note(level, decision.reason, slowdown, len(self._queue), now_s)
        for each in turn.jobs:
            self._queue.shares.serve(each, now_s)
        self._device.begin(turn, now_s + decision.predicted_ms / 1e3)
        return turn

    def _longest_ms(self, waiting: Waiting) -> float:
        """Profiled time of the densest run that may be chosen."""
        level = min(waiting.highest_level, max(self._highest_level, waiting.lowest_level))
        return self._profile.predict_ms(level, waiting.batch, waiting.sizes)

    def _limited(self, waiting: Waiting) -> Waiting:
        """The request with its highest level cut to the limit, where the request leaves a choice."""
        if waiting.highest_level <= self._highest_level:
            return waiting
        return replace(waiting, highest_level=max(self._highest_level, waiting.lowest_level))

    def _joining(self, first: Job, count: int) -> list[Job]:
        """Take up to `count` jobs from the head of the queue that run in one batch with `first`."""
        jobs: list[Job] = []
        while len(jobs) < count and (job := self._queue.pop_like(first)) is not None:
            if job.is_wanted():
                jobs.append(job)
        return jobs
