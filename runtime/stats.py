"""SchedulerStats: what a scheduler has done."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SchedulerStats:
    """Counts since the start, and the state now.

    served: requests answered, by level; late: of those, after their deadline. Every submitted request is counted in
    exactly one of served, shed, expired, failed and cancelled once it has ended.
    slowdown: predicted / profiled time.
    """

    served: tuple[int, ...]
    late: int
    shed: int
    expired: int
    failed: int
    cancelled: int
    queue_length: int
    slowdown: float
