"""SchedulerStats: the state of a scheduler at one moment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from .run_counts import SameSize


@dataclass(frozen=True, slots=True)
class SchedulerStats:
    """The state of a scheduler. The outcome of each request is in its future; the server's metrics count outcomes.

    queue_length: requests that wait. slowdown: predicted over profiled time of a run.
    stuck: runs under way that have taken far longer than they should.
    runs: number of runs that ended well. same_size: those of one number of samples, see RunCounts.
    """

    queue_length: int
    slowdown: float
    stuck: int = 0
    runs: int = 0
    same_size: Mapping[int, SameSize] = field(default_factory=dict)
