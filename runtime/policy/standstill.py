"""Standstill: the times in which a CPU quota stops this process, from what its cgroup says and the runs it stopped."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from ..resources import QuotaReading

LONGER, LEAST_MS = 1.5, 1.0
"""A run that takes so many times as long as expected, and so much longer, may have been stopped."""
SCATTER = 1.25
"""A run that was stopped takes at most so many times as long as expected, besides."""
WEIGHT, FALLING_WEIGHT = 0.25, 0.75
"""Of one more stop in the CPU time after which they begin. To reckon with too much of it costs deadlines."""
ALL = 0.85
"""Of the quota: a stop after more of it came because all of it was used up."""
BELIEVED_PERIODS = 10
"""It is believed for so long that others use a part of the quota, if no stop tells it again."""
UNREAD_S = 0.05
"""A quota that is not there, or that we cannot use up, is read again after this time."""
READINGS, LEAST_READ_S = 50, 0.001
"""Of another quota: readings of a period at most, and the least time between two."""
KEPT = 128
"""Latest readings that are kept. A run that began before them teaches nothing."""
HANDED_OVER_SHARE = 0.2
"""Of a run: longest time between a reading and its beginning, if the CPU time from then on is to be that of the run."""
RATE_WEIGHT, MOST_RATE = 0.2, 64.0
"""Of one more run in the CPU time that a second of runs takes, and the most of it."""


class Standstill:
    """Predicts standstills: a group of processes that has used up its quota is stopped until the period ends.

    The cgroup tells the quota, the period, and the CPU time that has been used. The kernel gives the quota anew at the
    same phase of each period, whether it was used or not. So a run that was stopped tells that phase: the quota came
    back before its end, at most by the time that the run takes. The phase that all such runs allow is exact to a
    millisecond or so. Before the first one, half of the quota is taken to be gone.

    A second of runs takes more than a second of CPU time, as other threads work beside them; how much is learned from
    the runs. Where the cgroup does not tell its CPU time, that of this process alone is known, and others may use a
    part of the quota. So the CPU time after which we are stopped is learned, too.

    It is active while there is a quota that runs can use up. Else left_ms() and wall_ms() know no standstill. Not
    thread-safe: the scheduler locks.

    read: reads the quota.
    """

    def __init__(self, read: Callable[[], QuotaReading | None]) -> None:
        self._read = read
        self._reading: QuotaReading | None = None
        self._due_s = -math.inf
        self._period_s = self._quota_s = 0.0
        self._usable_s = 0.0  # CPU time of a period after which we are stopped
        self._learned_s = -math.inf  # when that was learned
        self._mean_rate = 1.0  # CPU time of a second of runs
        self._between_s = 0.0, 0.0  # clock readings between which the quota came back once
        self._looks: deque[_Look] = deque(maxlen=KEPT)

    def active(self, now_s: float) -> bool:
        """Whether standstills are to be expected. It reads the quota, unless the latest reading is a new one."""
        if now_s >= self._due_s:
            self._look(now_s)
        return self._binds

    @property
    def share(self) -> float:
        """Share of the time in which this process may run, where it has enough to do; 1 while not active."""
        return self._running_s / self._period_s if self._binds else 1.0

    def left_ms(self, now_s: float, until_s: float) -> float:
        """Time for runs between now and `until_s`."""
        wall_s = until_s - now_s
        if not self._binds or wall_s <= 0:
            return wall_s * 1e3
        room_s, refill_s = self._room(now_s)
        if wall_s <= refill_s:
            return min(wall_s, room_s) * 1e3
        periods, rest_s = divmod(wall_s - refill_s, self._period_s)
        return (room_s + periods * self._running_s + min(rest_s, self._running_s)) * 1e3

    def refill_ms(self, now_s: float) -> float:
        """Time until the quota is given anew; 0 while not active."""
        return self._room(now_s)[1] * 1e3 if self._binds else 0.0

    def wall_ms(self, now_s: float, run_ms: float) -> float:
        """Time from now until runs of `run_ms` have ended, if they begin now."""
        if not self._binds:
            return run_ms
        room_s, refill_s = self._room(now_s)
        beyond_s = run_ms / 1e3 - room_s
        if beyond_s <= 0:
            return run_ms
        periods = math.ceil(beyond_s / self._running_s) - 1
        return (refill_s + periods * self._period_s + beyond_s - periods * self._running_s) * 1e3

    def learn(self, started_s: float, ended_s: float, expected_ms: float) -> float:
        """Learn from a run that has ended; returns the part of its time, in milliseconds, in which it was stopped.

        expected_ms: time that the run should have taken.
        """
        if self._reading is None and ended_s < self._due_s:
            return 0.0
        wall_s = ended_s - started_s
        is_long = wall_s * 1e3 >= max(LONGER * expected_ms, expected_ms + LEAST_MS)
        surprising = not is_long and self._should_have_stopped(started_s, expected_ms)
        if ended_s >= self._due_s or (self._reading is not None and (is_long or surprising)):
            self._look(ended_s)
        before = self._look_at(started_s)
        if before is None:
            return 0.0
        after, earlier = self._looks[-1], self._look_at(started_s - self._period_s + self._running_s) or self._looks[0]
        used_s, stops = max(after.used_s - before.used_s, 0.0), after.stops_since(before)
        is_known = after.at_s == ended_s and started_s - before.at_s <= HANDED_OVER_SHARE * wall_s
        if is_long and after.stops_since(earlier) != 0:
            if wall_s - expected_ms / 1e3 < self._period_s:  # else it was stopped more than once, which tells no phase
                self._learn_stop(before, after, used_s, expected_ms / 1e3)
        elif is_known and not stops and not is_long and wall_s > 0:
            self._mean_rate += RATE_WEIGHT * (min(used_s / wall_s, MOST_RATE) - self._mean_rate)
            if surprising:
                self._usable_s = max(self._usable_s, after.spent_s)
            return 0.0
        elif not (is_known and stops):
            return 0.0
        took_s = used_s / self._rate if is_known else expected_ms / 1e3
        return max(wall_s - took_s, 0.0) * 1e3

    def working_ms(self, since_s: float, until_s: float) -> float:
        """The part of a time that has passed in which this process was not stopped, by its CPU time."""
        wall_ms = (until_s - since_s) * 1e3
        first, last = self._look_at(since_s), self._look_at(until_s)
        if first is None or last is None or not self._binds:
            return wall_ms
        return min(wall_ms, max(last.used_s - first.used_s, 0.0) / self._rate * 1e3)

    @property
    def _binds(self) -> bool:
        return self._reading is not None and self._running_s < self._period_s

    @property
    def _rate(self) -> float:
        return max(self._mean_rate, 1.0)

    @property
    def _refill_s(self) -> float:
        return sum(self._between_s) / 2

    @property
    def _running_s(self) -> float:
        """Time of each period in which we may run."""
        return min(max(self._usable_s / self._rate, 0.01 * self._period_s), self._period_s)

    def _room(self, now_s: float) -> tuple[float, float]:
        """Time until the next standstill, and until its end, in seconds."""
        since_s = (now_s - self._refill_s) % self._period_s
        refill_s = self._period_s - since_s
        look = self._looks[-1]
        spent_s = look.spent_s if look.at_s >= now_s - since_s else 0.0
        return min(max((self._usable_s - spent_s) / self._rate, 0.0), refill_s), refill_s

    def _look(self, now_s: float) -> None:
        """Read the quota, and the CPU time used since its last refill."""
        reading = self._reading = self._read()
        if reading is None:
            self._due_s = now_s + UNREAD_S
            self._looks.clear()
            return
        period_s, quota_s, used_s = reading.period_ms / 1e3, reading.quota_ms / 1e3, reading.used_ms / 1e3
        if period_s != self._period_s:
            self._between_s = now_s - quota_s / 2 - period_s, now_s - quota_s / 2 + period_s
            self._looks.clear()
        if (period_s, quota_s) != (self._period_s, self._quota_s):
            self._usable_s = quota_s
        elif now_s - self._learned_s > BELIEVED_PERIODS * period_s:
            self._usable_s = max(self._usable_s, quota_s)
        self._period_s, self._quota_s = period_s, quota_s
        self._due_s = now_s + (max(period_s / READINGS, LEAST_READ_S) if self._binds else UNREAD_S)
        since_s = (now_s - self._refill_s) % period_s
        before = self._looks[-1] if self._looks else _Look(-math.inf, used_s - quota_s / 2, 0.0, None)
        spent_s = max(used_s - before.used_s, 0.0)
        spent_s = before.spent_s + spent_s if before.at_s >= now_s - since_s else min(spent_s, self._rate * since_s)
        self._looks.append(_Look(now_s, used_s, spent_s, reading.stops))

    def _look_at(self, now_s: float) -> _Look | None:
        """The latest look of then; None: not known."""
        return next((each for each in reversed(self._looks) if each.at_s <= now_s), None)

    def _should_have_stopped(self, started_s: float, expected_ms: float) -> bool:
        """Whether a run meets a standstill by much: one that only touches it may as well have missed it."""
        half_ms, least_ms = expected_ms / 2, (self._period_s - self._running_s) / 2 * 1e3
        return self.wall_ms(started_s, half_ms) > half_ms + least_ms

    def _learn_stop(self, before: _Look, after: _Look, used_s: float, expected_s: float) -> None:
        """Learn from a run that was stopped. before, after: the looks at its beginning and at its end.

        used_s: CPU time between them.
        """
        was_placed = self._between_s[1] - self._between_s[0] < self._period_s
        self._place(after.at_s, min(used_s / self._rate, SCATTER * expected_s))
        after.spent_s = min(used_s, self._rate * (after.at_s - self._refill_s))
        in_that_period = before.at_s >= self._refill_s - self._period_s
        if was_placed and in_that_period and after.stops_since(before) in (1, None):
            spent_s = before.spent_s + used_s - after.spent_s
            away_s = (self._quota_s if spent_s > ALL * self._quota_s else spent_s) - self._usable_s
            self._usable_s += (WEIGHT if away_s > 0 else FALLING_WEIGHT) * away_s
            self._learned_s = after.at_s

    def _place(self, ended_s: float, most_s: float) -> None:
        """Narrow the phase: the quota came back within the last `most_s` before `ended_s`."""
        found = ended_s - most_s, ended_s
        periods_s = round((sum(found) / 2 - self._refill_s) / self._period_s) * self._period_s
        common = max(found[0], self._between_s[0] + periods_s), min(found[1], self._between_s[1] + periods_s)
        self._between_s = common if common[0] <= common[1] else found  # else the phase is another one


@dataclass(slots=True)
class _Look:
    """A reading of the quota. at_s: clock reading; spent_s: CPU time since the refill before it."""

    at_s: float
    used_s: float
    spent_s: float
    stops: int | None

    def stops_since(self, other: _Look) -> int | None:
        """Number of stops since `other`; None: not known."""
        return None if self.stops is None or other.stops is None else self.stops - other.stops
