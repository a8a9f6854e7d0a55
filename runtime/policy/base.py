"""LevelPolicy: the protocol of everything that chooses the level a request runs at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from .decision import Decision, Waiting


class LevelPolicy(Protocol):
    """Decides at submission whether to take a request in, and at dequeue at which level to run it.

    `queue` is what waits behind, earliest deadline first; `now_s` a reading of the scheduler's clock, as are all
    deadlines. Calls come one at a time.
    """

    def admit(self, request: Waiting, queue: Sequence[Waiting], busy_ms: float, now_s: float) -> Decision:
        """Called once per request when it comes in; busy_ms until a worker is free. A level of None sheds it."""

    def choose(self, request: Waiting, queue: Sequence[Waiting], now_s: float) -> Decision:
        """Called when `request` is next. The level is within what the request allows; None sheds it."""

    def observe(self, level: int, batch: int, service_ms: float, now_s: float) -> None:
        """Called after every run."""

    def observe_gap(self, gap_ms: float) -> None:
        """Called when a worker began a run that had waited for the one before: the time between the two."""

    def spare_ms(self, queue: Sequence[Waiting], now_s: float) -> float:
        """How long the run under way may still take for `queue` to be served in time; infinite if that is no matter.

        Called when a request was queued behind a run that may be lowered.
        """

    def slowdown_factor(self, now_s: float) -> float:
        """Predicted / profiled time, for logs and statistics."""
