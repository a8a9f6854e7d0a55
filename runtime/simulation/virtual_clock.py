"""VirtualClock: time that passes only when it is told to."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable


class VirtualClock:
    """Seconds that pass only by advance_to(), which calls what is due on the way, at its own time.

    Called without arguments it reads the time, so that it stands in for time.monotonic. Not thread-safe.
    """

    def __init__(self, start_s: float = 1000.0) -> None:
        self.now_s = start_s
        self._events: list[tuple[float, int, Callable[[], object]]] = []
        self._order = itertools.count()

    def __call__(self) -> float:
        """Seconds."""
        return self.now_s

    def at(self, time_s: float, event: Callable[[], object]) -> None:
        """Has `event` called when the clock passes `time_s`; events of one time in the order they were given."""
        heapq.heappush(self._events, (time_s, next(self._order), event))

    def advance_to(self, time_s: float) -> None:
        """Lets time pass until `time_s`; one that is over already changes nothing but what is due."""
        while self._events and self._events[0][0] <= time_s:
            due_s, _, event = heapq.heappop(self._events)
            self.now_s = max(self.now_s, due_s)
            event()
        self.now_s = max(self.now_s, time_s)

    def advance_to_next_event(self) -> bool:
        """Lets time pass until something is due and calls it. False if nothing is to come."""
        if not self._events:
            return False
        self.advance_to(self._events[0][0])
        return True
