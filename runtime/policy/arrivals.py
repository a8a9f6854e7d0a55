"""Arrivals: the mean number of samples that follow when a request comes in."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

WEIGHT = 0.02
"""Weight of one more arrival in the averages: about fifty arrivals count."""
FORGET_S = 5.0
"""After a pause of this length, what was learned before counts for a third."""
REGULAR = 0.3
"""Variance over mean of the counts, below which arrivals are called regular; a Poisson process has 1."""
ENOUGH = 8
"""Number of arrivals from which on a pace is known."""
MOST_WINDOWS = 2048
"""Windows that are open at once with a count of their own, some 0.4 MB. Beyond that number neighbours share a window:
of so many overlapping windows, two in a row differ by one request."""


@dataclass(slots=True)
class _Window:
    """The time after one arrival, or after several that came close together: begin_s and base are then their means.

    base: number of samples that had come in when the window began, its own included.
    arrivals: number of arrivals that share the window.
    """

    begin_s: float
    gap_s: float
    base: float
    arrivals: int = 1

    def join(self, begin_s: float, base: int) -> None:
        """Let one more arrival share this window."""
        self.arrivals += 1
        self.begin_s += (begin_s - self.begin_s) / self.arrivals
        self.base += (base - self.base) / self.arrivals


class Arrivals:
    """The mean number of samples that follow an arrival within the time that a request may take, and their regularity.

    This is the mean seen by arrivals (Palm), not the rate. Where requests come in clumps, the queue forms in them, and
    there many more samples follow an arrival than the rate says. The mean does not depend on the level in use. A
    policy that follows it is therefore stable; with CPU % as its input it would react to its own decisions.

    The cost of a request does not grow with the horizon: a window's count is the difference of two running totals.

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
        self._sizes: tuple[float, ...] = ()
        self._horizon_ms = 0.0
        self._interval_ms = math.inf

    @property
    def known(self) -> bool:
        """Whether a request has come in yet."""
        return self._count > 0

    @property
    def horizon_ms(self) -> float:
        """Mean time that a request has when it comes in; following samples are counted over this time."""
        return self._horizon_ms

    @property
    def following(self) -> float:
        """Mean number of samples that follow an arrival within the horizon."""
        return self._mean

    @property
    def batch(self) -> float:
        """Mean number of samples of a request."""
        return self._batch

    @property
    def sizes(self) -> tuple[float, ...]:
        """Mean free sizes of a request."""
        return self._sizes

    @property
    def interval_ms(self) -> float:
        """Mean time between two requests; infinite until enough have come in."""
        return self._interval_ms if self._count >= ENOUGH else math.inf

    @property
    def regular(self) -> bool:
        """Whether requests come evenly, as a camera's images do."""
        return self._count >= ENOUGH and self._variance < REGULAR * self._mean * self._batch

    def note(self, samples: int, budget_ms: float, now_s: float, sizes: Sequence[int] = ()) -> None:
        """Take note of a request of `samples` samples of these free sizes that came in and may take `budget_ms`."""
        gap_s = now_s - self._last_s
        weight = self._weight(gap_s)
        self._horizon_ms += weight * (budget_ms - self._horizon_ms)
        self._batch += weight * (samples - self._batch)
        if sizes:
            means = zip(self._sizes or sizes, sizes, strict=True)
            self._sizes = tuple([mean + weight * (size - mean) for mean, size in means])
        if self._count:
            before_ms = self._interval_ms if self._count > 1 else gap_s * 1e3
            self._interval_ms = before_ms + weight * (gap_s * 1e3 - before_ms)
        self._close(now_s)
        self._total += samples
        self._begin(now_s, gap_s)
        self._last_s = now_s
        self._count += 1

    def _begin(self, now_s: float, gap_s: float) -> None:
        """Open a window, or let the arrival share the last one where there are too many."""
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
            if window.arrivals > 1:  # the same weight as that many windows, one after the other
                weight = 1.0 - (1.0 - weight) ** window.arrivals
            difference = self._total - window.base - self._mean
            self._mean += weight * difference
            self._variance += weight * (difference * (self._total - window.base - self._mean) - self._variance)

    def _weight(self, gap_s: float) -> float:
        return max(WEIGHT, 1.0 / (self._count + 1), 1.0 - math.exp(-gap_s / FORGET_S))
