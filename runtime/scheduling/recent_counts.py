"""RecentCounts: sums by name over about the last `window_s`, whole windows of which are forgotten at once."""

from __future__ import annotations


class RecentCounts:
    """Free of any clock: its owner reads it, and never gives an earlier time. Seconds.

    total: of all names. names: number of those that have one.
    """

    def __init__(self, window_s: float) -> None:
        self._window_s = window_s
        self._begun_s = 0.0
        self._now: dict[str, int] = {}
        self._before: dict[str, int] = {}
        self.total = self.names = 0

    def add(self, name: str, count: int, now_s: float) -> int:
        """Add to a name's sum; returns the sum."""
        self.forget(now_s)
        before, now = self._before.get(name, 0), self._now.get(name, 0)
        self.names += not before + now
        self.total += count
        self._now[name] = now + count
        return before + now + count

    def of(self, name: str) -> int:
        """The sum of a name, as of the last time given."""
        return self._before.get(name, 0) + self._now.get(name, 0)

    def forget(self, now_s: float) -> None:
        """Forget what is older than two windows at `now_s`."""
        age_s = now_s - self._begun_s
        if age_s >= self._window_s:
            follows = age_s < 2 * self._window_s
            self._before = self._now if follows else {}
            self._now, self._begun_s = {}, self._begun_s + self._window_s if follows else now_s
            self.total, self.names = sum(self._before.values()), len(self._before)
