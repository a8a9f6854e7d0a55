"""Ramp: a level that falls at once and rises slowly."""

from __future__ import annotations


class Ramp:
    """The densest level that may run at the moment, for one kind of request.

    It falls at once to the level that fits. It rises by one level after `decisions` decisions in a row for which a
    denser level would have fitted. Only the rise waits: to fall late costs deadlines, to rise late some accuracy.
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

    def rise_to(self, level: int) -> int:
        """Rise at once, where nothing can be late for it."""
        self.level, self._streak = level, 0
        return level
