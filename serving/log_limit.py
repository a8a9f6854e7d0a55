"""LogLimit: a bound on the lines of a log that one place in the code may write, so that no client can fill a disk."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

BURST = 60
"""Lines that a place may write at once."""
LINES_PER_S = 1.0
"""Lines that it may write from then on."""


class LogLimit(logging.Filter):
    """Drops records of a place that writes too much. The next one that it shows has `left_out`, the number of them.

    A place is a line of the source: what a client sends cannot make more of them, and is counted together.
    """

    def __init__(
        self, burst: int = BURST, lines_per_s: float = LINES_PER_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__()
        self._burst, self._lines_per_s, self._clock = burst, lines_per_s, clock
        self._lock = threading.Lock()
        self._places: dict[tuple[str, int], _Place] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is shown."""
        now_s = self._clock()
        with self._lock:
            place = self._places.setdefault((record.pathname, record.lineno), _Place(self._burst, now_s))
            earned = (now_s - place.since_s) * self._lines_per_s
            place.lines, place.since_s = min(place.lines + earned, float(self._burst)), now_s
            if place.lines < 1:
                place.left_out += 1
                return False
            place.lines -= 1
            record.left_out, place.left_out = place.left_out, 0
            return True


class _Place:
    """The lines that a place may still write at a time, and those that were left out since its last one."""

    __slots__ = ("left_out", "lines", "since_s")

    def __init__(self, lines: float, since_s: float) -> None:
        self.lines, self.since_s, self.left_out = lines, since_s, 0
