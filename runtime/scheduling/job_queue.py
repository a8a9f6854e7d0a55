"""JobQueue: the jobs that wait for their run, by rank, then the earliest deadline first. None waits beyond it."""

from __future__ import annotations

from collections.abc import Callable

from ..policy import Waiting
from ..session import Watchdog
from .fair_share import FairShare
from .job import Job
from .request_queue import RequestQueue


class JobQueue:
    """A queue of jobs. Not thread-safe: its owner locks.

    capacity: largest number of jobs.
    on_due: called for a job that is still here at its deadline, so that its client need not wait for a free worker;
        from a thread of its own, without the owner's lock. None: expired jobs wait for pop_expired().
    clock: seconds, the clock of the deadlines.
    share_s: time for which the shares count what was served.
    shares: what each client has in the queue, and had of late.
    """

    def __init__(
        self, capacity: int, on_due: Callable[[Job], None] | None, clock: Callable[[], float], share_s: float = 1.0
    ) -> None:
        self._queue: RequestQueue[Job] = RequestQueue(capacity)
        self.shares = FairShare(share_s)
        self._reaper: Watchdog[Job] | None = None
        if on_due is not None:
            self._reaper = Watchdog(lambda job, waited_s: on_due(job), clock)

    def __len__(self) -> int:
        return len(self._queue)

    def enter(self, job: Job, now_s: float) -> bool:
        """Queue `job`; False where the queue is full."""
        job.ticket = self._queue.push(job.waiting.deadline_s, job, job.waiting.rank)
        if job.ticket is None:
            return False
        self.shares.enter(job)
        if self._reaper is not None:
            self._reaper.begin(job, job.waiting.deadline_s - now_s)
        return True

    def leave(self, job: Job) -> bool:
        """Take `job` out; False where it has left already."""
        waited = job.ticket is not None and self._queue.cancel(job.ticket)
        if waited:
            self.shares.leave(job)
        self._unwatch(job)  # also if it has left: the reaper may have found it overdue meanwhile
        return waited

    def pop_expired(self, now_s: float) -> list[Job]:
        """Take out every job whose deadline is not after `now_s`."""
        expired = self._queue.pop_expired(now_s)
        for job in expired:
            self._left(job)
        return expired

    def pop(self, now_s: float) -> Job | None:
        """Take out the first job whose deadline is after `now_s`; None if there is none."""
        job = self._queue.pop(now_s)
        if job is not None:
            self._left(job)
        return job

    def pop_like(self, first: Job) -> Job | None:
        """Take out the job that is next, if it may run in one batch with `first`; else None."""
        job = self._queue.peek()
        return job if job is not None and job.batches_with(first) and self.leave(job) else None

    def next_due(self) -> tuple[int, float] | None:
        """Rank and deadline of the job that is next; None if nothing waits."""
        first = self._queue.first()
        return None if first is None else (first.rank, first.deadline_s)

    @property
    def full(self) -> bool:
        """Whether enter() would refuse."""
        return self._queue.full

    def jobs(self) -> list[Job]:
        """The jobs, earliest deadline first."""
        return self._queue.items()

    def waiting(self) -> list[Waiting]:
        """The jobs as a policy sees them, in their order."""
        return [job.waiting for job in self._queue.items()]

    def clear(self) -> list[Job]:
        """Take out all jobs."""
        jobs = self._queue.clear()
        for job in jobs:
            self._left(job)
        return jobs

    def close(self) -> None:
        """Call on_due no more. The owner's lock must be free, for on_due may be waiting for it."""
        if self._reaper is not None:
            self._reaper.close()

    def _left(self, job: Job) -> None:
        self.shares.leave(job)
        self._unwatch(job)

    def _unwatch(self, job: Job) -> None:
        if self._reaper is not None:
            self._reaper.end(job)
