"""Nesting: the protocol of the methods that train levels with one set of weights."""

from __future__ import annotations

from typing import Protocol

from ..schedules.search import Schedule
from ..stage import Stage, Work


class Nesting(Protocol):
    """Settings of a method of nesting: a frozen dataclass that gives the stages of a run."""

    def stages(self, work: Work, schedule: Schedule) -> list[Stage]:
        """All stages, in order: dense training, searches, training of the levels.

        Raises TrainingError if the settings do not fit the net.
        """
        ...
