"""LevelPolicy: the protocol of the objects that choose the level of each request."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from .decision import Decision, Waiting


class LevelPolicy(Protocol):
    """Decides at submission whether to take a request in, and when its turn comes at which level to run it.

    queue: the requests that wait behind, earliest deadline first.
    now_s: a reading of the scheduler's clock, as are all deadlines.

    Calls come one at a time.
    """

    def admit(self, request: Waiting, queue: Sequence[Waiting], busy_ms: float, now_s: float) -> Decision:
        """Decide on a request that has just come in; a level of None sheds it. Called once per request.

        busy_ms: time until a worker is free.
        """

    def arrived(self, request: Waiting, now_s: float) -> None:
        """Take note of a request that has just come in and has ample time: called in place of admit() and choose().

        The last answer of choose() stands for it, which was given a few milliseconds ago for a request like it.
        """

    def choose(self, request: Waiting, queue: Sequence[Waiting], now_s: float) -> Decision:
        """Choose the level of `request`, which is next, within what it allows; None sheds it."""

    def stopped_ms(self, started_s: float, ended_s: float, profiled_ms: float) -> float:
        """Part of the time of a run that has ended in which this process was stopped; observe() is told the rest.

        profiled_ms: of what was run.
        """

    def observe(self, level: int, batch: int, service_ms: float, now_s: float) -> None:
        """Learn from a run that has ended. Not called where choose() was not, and the run took as long as predicted.

        service_ms: time that a whole run at `level` took, or would have taken where the level fell on the way, or
        where its free sizes were not those of the example.
        """

    def observe_gap(self, gap_ms: float, now_s: float) -> None:
        """Learn the time between two runs, where the second one was waiting for the end of the first.

        now_s: beginning of the second one.
        """

    def observe_reply(self, reply_ms: float, now_s: float) -> None:
        """Learn the time between the end of a run and the moment at which its answer could be sent."""

    def spare_ms(self, queue: Sequence[Waiting], now_s: float) -> float:
        """Time that the run under way may still take, if `queue` is to be served in time; infinite: no limit.

        Called when a request was queued behind a run whose level may fall.
        """

    def slowdown_factor(self, now_s: float) -> float:
        """Predicted over profiled time of a run, for logs and statistics."""
