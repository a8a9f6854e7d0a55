"""Arrivals: how much work has been asked for lately."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable


class Arrivals:
    """The last `count` requests that came in within `window_s` seconds, served or not.

    Their rate times the cost of a level is the utilisation this level would cause. It does not depend on the level in
    use, unlike CPU %, and so cannot make the policy chase its own tail.
    """

    def __init__(self, count: int = 64, window_s: float = 10.0) -> None:
        self._window_s = window_s
        self._recent: deque[tuple[float, int]] = deque(maxlen=count)
        self._batches: Counter[int] = Counter()

    def note(self, batch: int, now_s: float) -> None:
        """A request of `batch` samples came in."""
        if len(self._recent) == self._recent.maxlen:
            self._drop()
        self._recent.append((now_s, batch))
        self._batches[batch] += 1

    def utilisation(self, cost_ms: Callable[[int], float], now_s: float) -> float:
        """Busy share of one worker if every recent request took `cost_ms(batch)`; 0 if fewer than two are known."""
        while self._recent and now_s - self._recent[0][0] > self._window_s:
            self._drop()
        if len(self._recent) < 2:
            return 0.0
        elapsed_s = now_s - self._recent[0][0]
        if elapsed_s <= 0:
            return float("inf")
        # the oldest marks where the window starts, its own work lies before
        work_ms = sum(number * cost_ms(batch) for batch, number in self._batches.items()) - cost_ms(self._recent[0][1])
        return work_ms / (elapsed_s * 1e3)

    def _drop(self) -> None:
        _, batch = self._recent.popleft()
        self._batches[batch] -= 1
        if not self._batches[batch]:
            del self._batches[batch]
