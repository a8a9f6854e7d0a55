"""Arrivals: how much work has been asked for lately."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable


class Arrivals:
    """What came in within the last `window_s` seconds, served or not.

    Its rate times the cost of a level is the utilisation this level would cause. It does not depend on the level in
    use, unlike CPU %, and so cannot make the policy chase its own tail.
    """

    def __init__(self, window_s: float) -> None:
        self._window_s = window_s
        self._recent: deque[tuple[float, int]] = deque()
        self._batches: Counter[int] = Counter()

    def note(self, batch: int, now_s: float) -> None:
        """A request of `batch` samples came in."""
        self._forget(now_s)
        self._recent.append((now_s, batch))
        self._batches[batch] += 1

    def utilisation(self, cost_ms: Callable[[int], float], now_s: float) -> float:
        """Busy share of one worker if every request of the window had taken `cost_ms(batch)`."""
        self._forget(now_s)
        work_ms = sum(number * cost_ms(batch) for batch, number in self._batches.items())
        return work_ms / (self._window_s * 1e3)

    def _forget(self, now_s: float) -> None:
        while self._recent and now_s - self._recent[0][0] >= self._window_s:
            _, batch = self._recent.popleft()
            self._batches[batch] -= 1
            if not self._batches[batch]:
                del self._batches[batch]
