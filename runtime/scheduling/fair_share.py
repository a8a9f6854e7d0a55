"""FairShare: the samples that each client has in a queue, and the jobs that make way for a client that has fewer."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable

from ..policy import Waiting
from .job import Job
from .recent_counts import RecentCounts

ROOM_SHARE = 2 / 3
"""Share of a job's time in which it should be through, where jobs of clients with more are in its way. The rest is for
runs that take longer than predicted."""


class FairShare:
    """Counts the samples of each client: those that wait, and those of late. Not thread-safe: its owner locks.

    A job makes way for another one only if its client still has as many samples as the other's client will. So a client
    alone has the whole queue, and of several none gets less than an equal share that it asks for (max-min fairness;
    dropping from the longest queue: Suter et al., INFOCOM 1998). A served sample counts for about `window_s`: else a
    client whose requests go first, by priority, would never have one that waits.
    """

    def __init__(self, window_s: float) -> None:
        self._samples: dict[str, int] = {}
        self._served = RecentCounts(window_s)

    def enter(self, job: Job) -> None:
        """Count a job that begins to wait."""
        self._samples[job.client] = self._samples.get(job.client, 0) + job.waiting.batch

    def leave(self, job: Job) -> None:
        """Count it no more."""
        left = self._samples[job.client] - job.waiting.batch
        if left:
            self._samples[job.client] = left
        else:
            del self._samples[job.client]

    def serve(self, job: Job, now_s: float) -> None:
        """Note that a job has left to be run."""
        self._served.add(job.client, job.waiting.batch, now_s)

    def forget(self, now_s: float) -> None:
        """Forget what was served too long before `now_s`."""
        self._served.forget(now_s)

    def of(self, client: str) -> int:
        """The samples of a client that wait or were served of late."""
        return self._samples.get(client, 0) + self._served.of(client)

    def others_than(self, client: str) -> bool:
        """Whether jobs of another client wait."""
        return len(self._samples) > (client in self._samples)

    def has_less(self, client: str, job: Job) -> bool:
        """Whether `client` has fewer samples than the job's client would have with it."""
        return client != job.client and self.of(client) < self._with(job)

    def making_way(
        self, job: Job, waiting: Iterable[Job], cost_ms: Callable[[Waiting], float], excess_ms: float
    ) -> tuple[list[Job], float]:
        """The jobs of `waiting` that make way for `job`, and the time that is still in excess then.

        waiting: jobs in the way, in the order of service. Those of the client with most samples go first, the last
        of them first. cost_ms: time that a job takes. excess_ms: time that has to be freed.
        """
        samples = {client: self.of(client) for client in self._samples}
        mine = self._with(job)
        by_client: dict[str, list[Job]] = defaultdict(list)
        for each in waiting:
            if each.client != job.client:
                by_client[each.client].append(each)
        chosen: list[Job] = []
        while excess_ms > 0 and by_client:
            most = max(by_client, key=lambda client: samples[client])
            if samples[most] - by_client[most][-1].waiting.batch < mine:
                del by_client[most]
                continue
            last = by_client[most].pop()
            samples[most] -= last.waiting.batch
            excess_ms -= cost_ms(last.waiting)
            chosen.append(last)
            if not by_client[most]:
                del by_client[most]
        return chosen, excess_ms

    def _with(self, job: Job) -> int:
        return self.of(job.client) + job.waiting.batch
