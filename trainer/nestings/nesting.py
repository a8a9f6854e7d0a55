"""Nesting: the protocol of the methods that train levels with one set of weights."""

from __future__ import annotations

from typing import Protocol

from ..schedules.search import Schedule
from ..stage import Stage, Work


class Nesting(Protocol):
    """Settings of a method of nesting: a frozen dataclass that gives the stages after the dense one."""

    def stages(self, work: Work, schedule: Schedule) -> list[Stage]:
        """The searches and training stages, in order. Raises TrainingError if the settings do not fit the net."""
        ...
