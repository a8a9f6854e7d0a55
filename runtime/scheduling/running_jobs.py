"""RunningJobs: the runs that have begun and not ended, and those of them that do not end."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from ..policy import Decision
from ..session import Watchdog, stuck_after_s
from .job import Job


@dataclass(frozen=True, slots=True, eq=False)
class Turn:
    """Jobs that run together next, and how; or what the policy raised for the first of them. It stands for their run.

    thread: identifier of the thread that runs them, which is the one that made this.
    """

    jobs: list[Job]
    decision: Decision | Exception
    slowdown: float = 1.0
    thread: int = field(default_factory=threading.get_ident)


class RunningJobs:
    """Each turn ends once: finished, or stuck. Thread-safe.

    on_stuck(turn, elapsed_s): called from a thread of its own for a run that has taken far longer than predicted; None:
    nobody looks.
    """

    def __init__(self, on_stuck: Callable[[Turn, float], None] | None, clock: Callable[[], float]) -> None:
        self._turns: set[Turn] = set()
        self._on_stuck = on_stuck
        self._watchdog = None if on_stuck is None else Watchdog(self._overdue, clock)

    @property
    def stuck_count(self) -> int:
        """Runs that were found stuck and have not ended since."""
        return 0 if self._watchdog is None else self._watchdog.stuck_count

    def begin(self, turn: Turn, predicted_ms: float) -> None:
        """Its run begins."""
        self._turns.add(turn)
        if self._watchdog is not None:
            self._watchdog.begin(turn, stuck_after_s(predicted_ms))

    def finish(self, turn: Turn) -> bool:
        """Its run has ended; whether its requests still wait for it, and have not been told that it is stuck."""
        if self._watchdog is not None:
            self._watchdog.end(turn)
        return self._take(turn)

    def close(self) -> None:
        """Look no more."""
        if self._watchdog is not None:
            self._watchdog.close()

    def _overdue(self, turn: Turn, elapsed_s: float) -> None:
        if self._take(turn) and self._on_stuck is not None:
            self._on_stuck(turn, elapsed_s)

    def _take(self, turn: Turn) -> bool:
        """Take the turn out; False where it has ended before. One of two threads gets True."""
        try:
            self._turns.remove(turn)
        except KeyError:
            return False
        return True
