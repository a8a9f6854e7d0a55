"""Ramp: down at once, up slowly."""

from __future__ import annotations


class Ramp:
    """The densest level that may run at the moment, for one kind of request.

    It falls at once to what fits, and rises by one level after `decisions` consecutive decisions for which more would
    have fitted. Hysteresis is upward only: falling late costs deadlines, rising late only costs some accuracy.
    """

    def __init__(self, level: int, decisions: int) -> None:
        self.level = level
        self._decisions = decisions
        self._streak = 0

    def step(self, fitting: int) -> int:
        """The level to run, where `fitting` is the densest that would fit now."""
        if fitting <= self.level:
            self.level = fitting
            self._streak = 0
        else:
            self._streak += 1
            if self._streak >= self._decisions:
                self.level += 1
                self._streak = 0
        return self.level
