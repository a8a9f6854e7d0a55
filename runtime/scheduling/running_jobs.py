"""RunningJobs: the runs that have begun and not ended, and the search for stuck ones among them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import field

from nested_sparse.record import record

from ..policy import Decision
from ..session import Watchdog, stuck_after_s
from .job import Job
from .weakly import weakly


@record(frozen=True, slots=True, eq=False)
class Turn:
    """Jobs that run together, and how; or the error that the policy raised for the first of them. It names their run.

    decision: of the policy. slowdown: factor on profiled times when it was made.
    predicted_ms: of the run, where the decision was made for an earlier request; else None.
    thread: identifier of the thread that runs the jobs, which is the one that made this object.
    """

    jobs: list[Job]
    decision: Decision | Exception
    slowdown: float = 1.0
    predicted_ms: float | None = None
    thread: int = field(default_factory=threading.get_ident)


class RunningJobs:
    """The runs that are under way. Each ends once: it is finished, or found stuck. Thread-safe.

    on_stuck: called with the turn and the seconds since its begin, from a thread of its own, for a run that has taken
        far longer than predicted; None: there is no search for stuck runs.
    """

    def __init__(self, on_stuck: Callable[[Turn, float], None] | None, clock: Callable[[], float]) -> None:
        self._turns: set[Turn] = set()
        self._on_stuck = on_stuck
        self._watchdog = None if on_stuck is None else Watchdog(weakly(self._overdue), clock)

    @property
    def stuck_count(self) -> int:
        """Runs that were found stuck and have not ended since."""
        return 0 if self._watchdog is None else self._watchdog.stuck_count

    def begin(self, turn: Turn, predicted_ms: float) -> None:
        """Take note that the run of `turn` begins."""
        self._turns.add(turn)
        if self._watchdog is not None:
            self._watchdog.begin(turn, stuck_after_s(predicted_ms))

    def finish(self, turn: Turn) -> bool:
        """Take note that the run of `turn` has ended; False where it was found stuck before."""
        if self._watchdog is not None:
            self._watchdog.end(turn)
        return self._take(turn)

    def close(self) -> None:
        """End the search for stuck runs."""
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
