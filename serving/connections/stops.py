"""Stops: the time in which a CPU quota has stopped this process, as its event loop finds it."""

from __future__ import annotations

import math
from collections.abc import Callable

from nested_sparse.runtime.resources import QuotaReading

LEAST_S = 0.002
"""A loop that was late by less was hardly stopped; not worth a reading."""
LOOKS_PER_PERIOD, LEAST_LOOK_S = 10, 0.005
"""The loop must look so often that it sees nearly all of a stop as lateness. But a look takes CPU time of
the quota itself: 100 µs or more where caches are cold, so that looks every 2 ms took up to a tenth of 10 ms in 20."""
UNREAD_S = 1.0
"""A quota that was not there is looked for again after this time."""


class Stops:
    """Tells how long this process was stopped, from how long its loop did nothing, and from the quota's count of stops.

    read: reads the quota. It is called where the loop was late, and once a second at most where there is no quota.
    """

    def __init__(self, read: Callable[[], QuotaReading | None]) -> None:
        self._read = read
        self._looked_s = self._unread_until_s = -math.inf
        self._reading = read()

    @property
    def look_every_s(self) -> float:
        """Longest time between two looks; infinite without a quota."""
        if self._reading is None:
            return math.inf
        return max(self._reading.period_ms / 1e3 / LOOKS_PER_PERIOD, LEAST_LOOK_S)

    def stopped_s(self, since_s: float, now_s: float) -> float:
        """Time until now in which this process was stopped, of that since the last look, or since a later `since_s`.

        At most a period for each stop: what is longer has another cause.
        """
        late_s = now_s - max(since_s, self._looked_s)
        if late_s < LEAST_S or now_s < self._unread_until_s:
            return 0.0
        self._looked_s = now_s
        before, self._reading = self._reading, self._read()
        if self._reading is None:
            self._unread_until_s = now_s + UNREAD_S
        if self._reading is None or self._reading.stops is None or before is None or before.stops is None:
            return 0.0
        return min(late_s, max(self._reading.stops - before.stops, 0) * self._reading.period_ms / 1e3)
