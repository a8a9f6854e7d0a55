"""Arrivals: what usually follows when a request comes in."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

WEIGHT = 0.02
"""Of one more arrival in the averages: some fifty of them count."""
FORGET_S = 5.0
"""After a pause of this length what was learned counts for a third."""
REGULAR = 0.3
"""Variance / mean of the counts below which arrivals are called regular; a Poisson process has 1."""
ENOUGH = 8
"""Arrivals from which a pace can be told."""
MOST_WINDOWS = 2048
"""Open at once with a figure of their own each, some 0.4 MB. Beyond, neighbours share one: of so many overlapping
windows, two in a row see the same but for one request."""


@dataclass(slots=True)
class _Window:
    """The time after one arrival, or after `arrivals` that came close together: then begin and base are their means.

    base: samples that had come in when it began, its own included.
    """

    begin_s: float
    gap_s: float
    base: float
    arrivals: int = 1

    def join(self, begin_s: float, base: int) -> None:
        """One more arrival shares this window."""
        self.arrivals += 1
        self.begin_s += (begin_s - self.begin_s) / self.arrivals
        self.base += (base - self.base) / self.arrivals


class Arrivals:
    """How many samples follow an arrival within the time that a request may take, on average, and how evenly they come.

    It is the mean seen by arrivals (Palm), not the rate: where requests come in clumps, the queue forms in the clumps,
    and what an arrival is followed by there is many times the rate. It does not depend on the level in use, unlike
    CPU %, and so cannot make a policy chase its own tail.

    A request costs the same whatever the horizon holds: a window's count is the difference of two running totals.

    Tried without gain (docs/decisions/017): means kept apart by the time since the last arrival or by the number of
    recent ones (0.0 and -0.0 points of accuracy), a margin of 0.2 to 0.7 standard deviations (-0.1 to -0.4).
    """

    def __init__(self) -> None:
        self._open: deque[_Window] = deque()
        self._total = 0
        self._last_s = -math.inf
        self._count = 0
        self._mean = 0.0
        self._variance = 0.0
        self._batch = 1.0
        self._horizon_ms = 0.0
        self._interval_ms = math.inf

    @property
    def known(self) -> bool:
        """Whether anything came in yet."""
        return self._count > 0

    @property
    def horizon_ms(self) -> float:
        """Time that a request has when it comes in, on average; what follows is counted over this time."""
        return self._horizon_ms

    @property
    def following(self) -> float:
        """Samples that follow an arrival within the horizon."""
        return self._mean

    @property
    def batch(self) -> float:
        """Samples of a request, on average."""
        return self._batch

    @property
    def interval_ms(self) -> float:
        """Time between two requests, on average; infinite until there were enough to tell."""
        return self._interval_ms if self._count >= ENOUGH else math.inf

    @property
    def regular(self) -> bool:
        """Whether they come evenly, as a camera's images do."""
        return self._count >= ENOUGH and self._variance < REGULAR * self._mean * self._batch

    def note(self, samples: int, budget_ms: float, now_s: float) -> None:
        """A request of `samples` came in that may take `budget_ms`."""
        gap_s = now_s - self._last_s
        weight = self._weight(gap_s)
        self._horizon_ms += weight * (budget_ms - self._horizon_ms)
        self._batch += weight * (samples - self._batch)
        if self._count:
            before_ms = self._interval_ms if self._count > 1 else gap_s * 1e3
            self._interval_ms = before_ms + weight * (gap_s * 1e3 - before_ms)
        self._close(now_s)
        self._total += samples
        self._begin(now_s, gap_s)
        self._last_s = now_s
        self._count += 1

    def _begin(self, now_s: float, gap_s: float) -> None:
        """Opens a window, or has the last one shared where there are too many."""
        count = len(self._open)
        near_s = self._horizon_ms / 1e3 / MOST_WINDOWS
        if count >= MOST_WINDOWS and (count >= 2 * MOST_WINDOWS or now_s - self._open[-1].begin_s < near_s):
            self._open[-1].join(now_s, self._total)
        else:
            self._open.append(_Window(now_s, gap_s, self._total))

    def _close(self, now_s: float) -> None:
        horizon_s = self._horizon_ms / 1e3
        while self._open and now_s - self._open[0].begin_s > horizon_s:
            window = self._open.popleft()
            weight = self._weight(window.gap_s)
            if window.arrivals > 1:  # as much as that many windows, one after the other
                weight = 1.0 - (1.0 - weight) ** window.arrivals
            difference = self._total - window.base - self._mean
            self._mean += weight * difference
            self._variance += weight * (difference * (self._total - window.base - self._mean) - self._variance)

    def _weight(self, gap_s: float) -> float:
        return max(WEIGHT, 1.0 / (self._count + 1), 1.0 - math.exp(-gap_s / FORGET_S))
