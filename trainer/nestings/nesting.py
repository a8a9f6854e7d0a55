"""Nesting: how the levels come to share one set of weights. The protocol of its settings."""

from __future__ import annotations

from typing import Protocol

from ..schedules.search import Schedule
from ..stage import Stage, Work


class Nesting(Protocol):
    """Settings of a way of nesting: a frozen dataclass that lays out the stages after the dense one."""

    def stages(self, work: Work, schedule: Schedule) -> list[Stage]:
        """Searches and training of the levels, in order. Raises TrainingError for settings that do not fit the net."""
        ...
