"""Requests from their arrival to their response: the queue, the decisions, and the workers that run them."""

from __future__ import annotations

from .device import Device
from .recent_counts import RecentCounts
from .request import DEFAULT_PRIORITY, PRIORITY_LEVELS, Request, Response, allowed_levels, time_limit_ms
from .run_counts import MOST_SIZES, SameSize
from .runner import Runner
from .scheduler import Scheduler
from .stats import SchedulerStats

__all__ = [
    "DEFAULT_PRIORITY",
    "MOST_SIZES",
    "PRIORITY_LEVELS",
    "Device",
    "RecentCounts",
    "Request",
    "Response",
    "Runner",
    "SameSize",
    "Scheduler",
    "SchedulerStats",
    "allowed_levels",
    "time_limit_ms",
]
