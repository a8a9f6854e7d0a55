"""Requests from their arrival to their response: the queue, the workers, and what they did."""

from __future__ import annotations

from .device import Device
from .request import Request, Response
from .scheduler import Scheduler, SchedulerStats

__all__ = [
    "Device",
    "Request",
    "Response",
    "Scheduler",
    "SchedulerStats",
]
