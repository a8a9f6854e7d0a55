"""Ramp: down at once, up slowly."""

from __future__ import annotations


class Ramp:
    """The densest level that load allows at the moment, for one kind of request.

    It falls at once to what fits, and rises by one level after `decisions` consecutive decisions, or after `rise_s`
    seconds of them, for which the next level would have been comfortable. Hysteresis is upward only: falling late
    costs deadlines, rising late only costs some accuracy.
    """

    def __init__(self, level: int, decisions: int, rise_s: float) -> None:
        self.level = level
        self._decisions = decisions
        self._rise_s = rise_s
        self._streak = 0
        self._since_s = 0.0

    def step(self, fitting: int, comfortable: bool, now_s: float) -> int:
        """The level to run: `fitting` (the densest that would meet every deadline now), held back by the ramp.

        comfortable: whether the level above the ramp's would fit with a margin, and could be kept up.
        """
        if fitting < self.level:
            self.level = fitting
            self._streak = 0
        elif not comfortable:
            self._streak = 0
        else:
            self._count(now_s)
        return min(fitting, self.level)

    def _count(self, now_s: float) -> None:
        if self._streak == 0:
            self._since_s = now_s
        self._streak += 1
        if self._streak >= self._decisions or now_s - self._since_s >= self._rise_s:
            self.level += 1
            self._streak = 0
