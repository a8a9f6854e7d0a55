"""Standstill: the times in which a CPU quota stops this process, learned from the runs that it stopped."""

from __future__ import annotations

import math
from collections.abc import Callable

from ..resources import QuotaReading

LONGER, LEAST_MS = 1.5, 1.0
"""A run that takes so many times as long as expected, and so much longer, may have been stopped."""
SCATTER = 1.25
"""A run that was stopped takes at most so many times as long as expected, besides."""
WEIGHT, FALLING_WEIGHT = 0.25, 0.75
"""Of one more stop in the times after which standstills begin. To reckon with too much time costs deadlines."""
ENOUGH = 3
"""Number of stops from which on a scatter is known."""
BELIEVED_PERIODS = 10
"""Without another stop, it is believed for so long that the quota stops this process."""
UNREAD_S = 1.0
"""A quota that was not there is looked for again after this time."""


class Standstill:
    """Predicts standstills: a group of processes that has used up its quota is stopped until the period ends.

    The kernel gives the quota anew at the same phase of each period, whether it was used or not. So a run that was
    stopped tells that phase: the quota came back before its end, at most by the time that the run takes. The phase that
    all such runs allow is exact to a millisecond or so. A standstill begins when the quota is used up. That is after so
    much time of the period, where the rest of the group is busy anyway, or after so much time of our own runs, where we
    are alone. Both are learned, and the one that scatters less is believed.

    It is active from a run that was stopped until one that should have been stopped was not, or until none was for a
    while. While it is not, left_ms() and wall_ms() know no standstill. Not thread-safe: the scheduler locks.

    read: reads the quota; called once here, after runs that took longer than expected, and before a refusal.
    """

    def __init__(self, read: Callable[[], QuotaReading | None]) -> None:
        self._read = read
        self._active = False
        self._stopped_s = -math.inf
        self._unread_until_s = -math.inf
        self._unchecked_until_s = -math.inf
        self._checked: QuotaReading | None = None
        self._period_s = 0.0
        self._stops: int | None = None
        self._refill: tuple[float, float] | None = None  # clock readings between which the quota came back once
        self._used_s = 0.0  # time of our runs since the refill before _used_until_s
        self._used_until_s = -math.inf
        self._onsets = _Onset(), _Onset()  # after so much of a period, and of our runs in it
        first = read()
        if first is not None:
            self._period_s, self._stops = first.period_ms / 1e3, first.stops

    def active(self, now_s: float) -> bool:
        """Whether standstills are to be expected."""
        if self._active and now_s - self._stopped_s > BELIEVED_PERIODS * self._period_s:
            self._active = False  # else, with a wrong onset, every request could be refused for ever
        return self._active

    def is_over(self, now_s: float) -> bool:
        """Ask the sensor, once a period at most, whether the quota is gone or has not stopped us for a period.

        Called before a request is refused because of a standstill: where all are refused, no run would tell it.
        """
        if self._active and now_s >= self._unchecked_until_s:
            before, self._checked = self._checked, self._read()
            lately = now_s - self._unchecked_until_s <= self._period_s
            gone = self._checked is None or self._checked.period_ms / 1e3 != self._period_s
            if gone or (lately and self._checked == before and before is not None and before.stops is not None):
                self._active = False
            self._unchecked_until_s = now_s + self._period_s
        return not self._active

    @property
    def share(self) -> float:
        """Share of the time in which this process may run, where it has enough to do; 1 while not active."""
        return self._running_s / self._period_s if self._active else 1.0

    def left_ms(self, now_s: float, until_s: float) -> float:
        """Time for runs between now and `until_s`."""
        wall_s = until_s - now_s
        if not self._active or wall_s <= 0:
            return wall_s * 1e3
        room_s, refill_s = self._room(now_s)
        if wall_s <= refill_s:
            return min(wall_s, room_s) * 1e3
        periods, rest_s = divmod(wall_s - refill_s, self._period_s)
        return (room_s + periods * self._running_s + min(rest_s, self._running_s)) * 1e3

    def refill_ms(self, now_s: float) -> float:
        """Time until the quota is given anew; 0 while not active."""
        return self._room(now_s)[1] * 1e3 if self._active else 0.0

    def wall_ms(self, now_s: float, run_ms: float) -> float:
        """Time from now until runs of `run_ms` have ended, if they begin now."""
        if not self._active:
            return run_ms
        room_s, refill_s = self._room(now_s)
        beyond_s = run_ms / 1e3 - room_s
        if beyond_s <= 0:
            return run_ms
        periods = math.ceil(beyond_s / self._running_s) - 1
        return (refill_s + periods * self._period_s + beyond_s - periods * self._running_s) * 1e3

    def learn(self, started_s: float, ended_s: float, expected_ms: float) -> float:
        """Learn from a run that has ended; returns the part of its time, in milliseconds, in which it was stopped.

        That is 0 while this is not active: a stop that no plan reckons with is a slowdown.
        expected_ms: time that the run should have taken.
        """
        stopped_ms = (ended_s - started_s) * 1e3 - expected_ms
        if stopped_ms < max(LEAST_MS, (LONGER - 1.0) * expected_ms):
            if self._active and self._should_have_stopped(started_s, expected_ms):
                self._active = False
            self._count(started_s, ended_s)
            return 0.0
        if not self._was_stopped(ended_s):
            self._count(started_s, ended_s)
            return 0.0
        if stopped_ms < self._period_s * 1e3:  # else it was stopped more than once, which tells no phase
            self._place(ended_s, expected_ms / 1e3)
            self._learn_onset(started_s, ended_s, expected_ms / 1e3)
        self._count(started_s, ended_s)
        return stopped_ms if self._active else 0.0

    @property
    def _refill_s(self) -> float:
        return math.nan if self._refill is None else sum(self._refill) / 2

    @property
    def _uncertain_s(self) -> float:
        """Greatest error of _refill_s."""
        return 0.0 if self._refill is None else (self._refill[1] - self._refill[0]) / 2

    @property
    def _running_s(self) -> float:
        """Time of each period in which we may run."""
        return min(max(self._believed.mean_s, 0.01 * self._period_s), self._period_s)

    @property
    def _believed(self) -> _Onset:
        by_time, by_use = self._onsets
        return by_use if by_use.scatter < by_time.scatter else by_time

    def _room(self, now_s: float) -> tuple[float, float]:
        """Time until the next standstill, and until its end, in seconds."""
        since_s = (now_s - self._refill_s) % self._period_s
        by_use = self._believed is self._onsets[1]
        gone_s = (self._used_s if self._used_until_s >= now_s - since_s else 0.0) if by_use else since_s
        refill_s = self._period_s - since_s
        return min(max(self._running_s - gone_s, 0.0), refill_s), refill_s

    def _count(self, started_s: float, ended_s: float) -> None:
        """Add the time of a run to that of the period in which it ended."""
        if self._refill is not None:
            refill_s = ended_s - (ended_s - self._refill_s) % self._period_s
            before_s = self._used_s if self._used_until_s >= refill_s else 0.0
            self._used_s, self._used_until_s = before_s + ended_s - max(started_s, refill_s), ended_s

    def _should_have_stopped(self, started_s: float, expected_ms: float) -> bool:
        """Whether a run meets a standstill by much: one that only touches it may as well have missed it."""
        half_ms, least_ms = expected_ms / 2, (self._period_s - self._running_s) / 2 * 1e3
        return self.wall_ms(started_s, half_ms) > half_ms + least_ms

    def _was_stopped(self, now_s: float) -> bool:
        """Whether the quota was used up since the last time that this was asked."""
        if now_s < self._unread_until_s:
            return False
        reading = self._read()
        if reading is None:
            self._active, self._period_s, self._stops, self._refill = False, 0.0, None, None
            self._unread_until_s = now_s + UNREAD_S
            return False
        self._unread_until_s = now_s + reading.period_ms / 2e3  # a period has one stop at most
        if reading.period_ms / 1e3 != self._period_s:
            self._active, self._period_s, self._refill = False, reading.period_ms / 1e3, None
            self._onsets = _Onset(), _Onset()
        before, self._stops = self._stops, reading.stops
        return reading.stops is None or (before is not None and reading.stops > before)

    def _place(self, ended_s: float, expected_s: float) -> None:
        """Narrow the phase: the quota came back within the last `expected_s` or so before `ended_s`."""
        found = ended_s - SCATTER * expected_s, ended_s
        if self._refill is not None:
            periods_s = round((sum(found) / 2 - self._refill_s) / self._period_s) * self._period_s
            common = max(found[0], self._refill[0] + periods_s), min(found[1], self._refill[1] + periods_s)
            found = common if common[0] <= common[1] else found  # else the phase is another one
        self._refill = found

    def _learn_onset(self, started_s: float, ended_s: float, expected_s: float) -> None:
        """Learn when the standstill began, if the run was under way by then."""
        stopped_s = ended_s - started_s - expected_s
        before_s = self._refill_s - stopped_s - started_s  # of the run, before it was stopped
        under_way = before_s > self._uncertain_s and self._room(started_s)[0] > 0
        if under_way or not self._active:
            began_s = self._refill_s - self._period_s
            self._onsets[0].learn(self._period_s - stopped_s)
            if self._used_until_s > -math.inf:  # else the phase is known only now
                used_s = self._used_s if self._used_until_s >= began_s else 0.0
                self._onsets[1].learn(used_s + max(before_s, 0.0))
        self._active, self._stopped_s = True, ended_s


class _Onset:
    """Mean of a time after which standstills begin, and its scatter: the mean deviation, as a share of the mean."""

    def __init__(self) -> None:
        self.mean_s = math.inf
        self._deviation_s = 0.0
        self._count = 0

    @property
    def scatter(self) -> float:
        """Infinite until enough are known."""
        return self._deviation_s / self.mean_s if self._count >= ENOUGH and self.mean_s > 0 else math.inf

    def learn(self, time_s: float) -> None:
        """Take one more in."""
        self._count += 1
        if self._count == 1:
            self.mean_s = time_s
        away_s = time_s - self.mean_s
        self._deviation_s += WEIGHT * (abs(away_s) - self._deviation_s)
        self.mean_s += (WEIGHT if away_s > 0 else FALLING_WEIGHT) * away_s
