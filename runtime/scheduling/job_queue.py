"""JobQueue: the jobs that wait for their run, earliest deadline first; none waits beyond its deadline."""

from __future__ import annotations

from collections.abc import Callable

from ..policy import Waiting
from ..session import Watchdog
from .job import Job
from .request_queue import RequestQueue


class JobQueue:
    """A queue of jobs. Not thread-safe: its owner locks.

    on_due: called from a thread of its own, without the owner's lock, for a job that is still here at its deadline, so
    that its client need not wait until a worker is free; None: nobody looks, and the expired wait for pop_expired().
    """

    def __init__(self, capacity: int, on_due: Callable[[Job], None] | None, clock: Callable[[], float]) -> None:
        self._queue: RequestQueue[Job] = RequestQueue(capacity)
        self._reaper: Watchdog[Job] | None = None
        if on_due is not None:
            self._reaper = Watchdog(lambda job, waited_s: on_due(job), clock)

    def __len__(self) -> int:
        return len(self._queue)

    def enter(self, job: Job, now_s: float) -> bool:
        """Queues `job`; False where the room is full."""
        job.ticket = self._queue.push(job.waiting.deadline_s, job)
        if job.ticket is None:
            return False
        if self._reaper is not None:
            self._reaper.begin(job, job.waiting.deadline_s - now_s)
        return True

    def leave(self, job: Job) -> bool:
        """Takes `job` out; False where it is not here any more."""
        waited = job.ticket is not None and self._queue.cancel(job.ticket)
        self._left(job)
        return waited

    def pop_expired(self, now_s: float) -> list[Job]:
        """Takes out every job whose deadline is not after `now_s`."""
        expired = self._queue.pop_expired(now_s)
        for job in expired:
            self._left(job)
        return expired

    def pop(self, now_s: float) -> Job | None:
        """Takes out the job with the earliest deadline after `now_s`; None if there is none."""
        job = self._queue.pop(now_s)
        if job is not None:
            self._left(job)
        return job

    def pop_like(self, first: Job) -> Job | None:
        """Takes out the job that is next, if it may run in one batch with `first`."""
        job = self._queue.peek()
        return job if job is not None and job.batches_with(first) and self.leave(job) else None

    def first_due_s(self) -> float | None:
        """The earliest deadline; None if nothing waits."""
        return self._queue.first_deadline_s()

    def waiting(self) -> list[Waiting]:
        """What a policy sees of them, earliest deadline first."""
        return [job.waiting for job in self._queue.items()]

    def clear(self) -> list[Job]:
        """Takes out everything."""
        jobs = self._queue.clear()
        for job in jobs:
            self._left(job)
        return jobs

    def close(self) -> None:
        """Nobody is told of deadlines any more. Not under the owner's lock: it may be asked for just now."""
        if self._reaper is not None:
            self._reaper.close()

    def _left(self, job: Job) -> None:
        if self._reaper is not None:
            self._reaper.end(job)
