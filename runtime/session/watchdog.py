"""Watchdog: a thread that reports each task that takes longer than its limit."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from nested_sparse.forked import heed_forks

STUCK_TIMES = 20.0
LEAST_STUCK_S = 10.0
STOOD_STILL_S = 0.5
"""A watchdog thread that sleeps this much longer than it asked for was itself stopped, in seconds. The tasks that it
watches were stopped too, so they get their whole time again and do not count as overdue."""
KeyT = TypeVar("KeyT", bound=Hashable)
_LOGGER = logging.getLogger("nested_sparse.runtime")


def stuck_after_s(predicted_ms: float) -> float:
    """Seconds after which a run of that predicted time is certainly stuck: a busy neighbour alone costs less time."""
    return max(LEAST_STUCK_S, STUCK_TIMES * predicted_ms / 1e3)


class TimeLimits(Generic[KeyT]):
    """The tasks under way and the ends of their time limits; the watchdog without its thread.

    A task is known by a key. Times are readings of one clock, in seconds.
    """

    def __init__(self) -> None:
        self._limits: dict[KeyT, tuple[float, float, float]] = {}  # begun_s, limit_s, ends_s; made in every run
        self._overdue: set[KeyT] = set()

    def begin(self, key: KeyT, now_s: float, limit_s: float) -> float:
        """Begin the task `key`; returns the time at which it will be overdue. A task under way begins anew."""
        if self._overdue:
            self._overdue.discard(key)
        ends_s = now_s + limit_s
        self._limits[key] = now_s, limit_s, ends_s
        return ends_s

    def end(self, key: KeyT) -> bool:
        """End the task `key`; returns whether it had been found overdue."""
        self._limits.pop(key, None)
        if key not in self._overdue:
            return False
        self._overdue.discard(key)
        return True

    @property
    def overdue_count(self) -> int:
        """Number of tasks that are under way and overdue."""
        return len(self._overdue)

    def next_s(self) -> float:
        """Time at which the first task will be overdue; infinite where no task is under way."""
        return min((ends_s for _, _, ends_s in self._limits.values()), default=math.inf)

    def overdue(self, now_s: float) -> list[tuple[KeyT, float]]:
        """The tasks that have become overdue since the last call, with the seconds since each began."""
        found = [(key, now_s - begun_s) for key, (begun_s, _, ends_s) in self._limits.items() if ends_s <= now_s]
        for key, _ in found:
            del self._limits[key]
            self._overdue.add(key)
        return found

    def renew(self, now_s: float) -> None:
        """Give all tasks their whole time again: the clock went on while the process was stopped."""
        for key, (begun_s, limit_s, _) in self._limits.items():
            self._limits[key] = begun_s, limit_s, now_s + limit_s


class Watchdog(Generic[KeyT]):
    """Calls on_stuck(key, elapsed_s) for each task that has not ended in time, once and from a thread of its own.

    begin() and end() take microseconds: the thread sleeps until the first limit, and only an earlier limit wakes it. A
    task that ends before does not change when it wakes: otherwise each of many short tasks would wake it, and it would
    take Python's lock from the thread that runs them. An error that on_stuck raises is logged.
    """

    def __init__(self, on_stuck: Callable[[KeyT, float], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._on_stuck = on_stuck
        self._clock = clock
        self._limits = TimeLimits[KeyT]()
        self._lock = threading.Lock()  # taken twice per task, without the condition's functions in Python
        self._changed = threading.Condition(self._lock)
        self._wakes_s = math.inf
        self._closed = False
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._thread.start()
        heed_forks(self)

    def forget(self) -> None:
        """As Inheritable: the thread and its tasks are those of the parent process."""
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._limits = TimeLimits()
        self._closed = True

    def begin(self, key: KeyT, limit_s: float) -> None:
        """Watch the task `key`, which may be under way for `limit_s`."""
        with self._lock:
            ends_s = self._limits.begin(key, self._clock(), limit_s)
            if ends_s < self._wakes_s:
                self._wakes_s = ends_s
                self._changed.notify()

    def end(self, key: KeyT) -> bool:
        """End the task; returns whether on_stuck was, or is being, called for it."""
        with self._lock:
            return self._limits.end(key)

    @property
    def stuck_count(self) -> int:
        """Number of tasks that are under way beyond their limit. Not locked: each call of a server asks for it."""
        return self._limits.overdue_count

    def close(self) -> None:
        """End the thread. on_stuck must not call this."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _watch(self) -> None:
        while (found := self._wait()) is not None:
            for key, elapsed_s in found:
                try:
                    self._on_stuck(key, elapsed_s)
                except Exception:  # of any kind: the other tasks must still be watched
                    _LOGGER.exception("the watchdog could not report %r, which has run for %.1f s", key, elapsed_s)

    def _wait(self) -> list[tuple[KeyT, float]] | None:
        """Sleep until a limit is reached; returns the tasks that are overdue then, None when closed."""
        with self._changed:
            while not self._closed:
                now_s = self._clock()
                found = self._limits.overdue(now_s)
                if found:
                    return found
                if self._wakes_s <= now_s:  # else it sleeps on: see the class
                    self._wakes_s = self._limits.next_s()
                sleeps_to_s = self._wakes_s
                woken = self._changed.wait(min(sleeps_to_s - now_s, threading.TIMEOUT_MAX))
                now_s = self._clock()
                if not woken and now_s - sleeps_to_s > STOOD_STILL_S:
                    self._limits.renew(now_s)
            return None
