"""SchedulerStats: the state of a scheduler at one moment."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SchedulerStats:
    """The state of a scheduler. The outcome of each request is in its future; the server's metrics count outcomes.

    queue_length: requests that wait. slowdown: predicted over profiled time of a run.
    stuck: runs under way that have taken far longer than they should.
    """

    queue_length: int
    slowdown: float
    stuck: int = 0
