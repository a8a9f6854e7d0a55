"""SchedulerStats: what a scheduler has done."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SchedulerStats:
    """Counts since the start, and the state now.

    served: requests answered, by the level they ended at; lowered: of those, with a level that fell while they ran;
    batched: of those, in one run with others. Every submitted request is counted in exactly one of served, shed,
    expired, failed and cancelled once it has ended.
    slowdown: predicted / profiled time. stuck: runs under way that have taken far longer than they should.
    """

    served: tuple[int, ...]
    shed: int
    expired: int
    failed: int
    cancelled: int
    queue_length: int
    slowdown: float
    lowered: int = 0
    batched: int = 0
    stuck: int = 0
