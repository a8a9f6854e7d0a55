"""Slowdown: how much slower this device runs now than when it was profiled."""

from __future__ import annotations

import math
import statistics
import time
from collections import deque
from collections.abc import Callable

MINIMUM = 0.5
MAXIMUM = 50.0


class Slowdown:
    """One global factor xi = measured / profiled time, for every level at once.

    Only the level that was served yields samples, so a global factor is what keeps the predictions of the others
    fresh. It sees contention, throttling, steal and heat together (ALERT, USENIX ATC'20: mean + k *
    deviation).

    One slow request must not send the server to its lowest level, a lasting co-runner must be seen at once: a sample
    that leaves the recent mean by more than `believed_step` counts in full only when the median of the last three
    agrees, that is from the second in a row on. Without samples the factor returns to 1, with time constant
    `forget_s`, once `fresh_s` have passed.

    Times are in milliseconds where the name says so, clock readings in seconds. Not thread-safe: its owner locks.
    """

    def __init__(
        self,
        *,
        weight: float = 0.4,
        deviations: float = 1.5,
        believed_step: float = 1.5,
        fresh_s: float = 1.0,
        forget_s: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._weight = weight
        self._deviations = deviations
        self._believed_step = believed_step
        self._fresh_s = fresh_s
        self._forget_s = forget_s
        self._clock = clock
        self._mean = 1.0
        self._deviation = 0.0
        self._recent: deque[float] = deque((1.0, 1.0), maxlen=2)
        self._observed_s: float | None = None

    def observe(self, measured_ms: float, profiled_ms: float, now_s: float | None = None) -> None:
        """Takes in one finished run. Ignores what cannot be a ratio (a clock that stood still, a profile of 0)."""
        if not (measured_ms > 0 and profiled_ms > 0 and math.isfinite(measured_ms)):
            return
        now_s = self._clock() if now_s is None else now_s
        self._forget(now_s)
        ratio = min(max(measured_ms / profiled_ms, MINIMUM), MAXIMUM)
        agreed = statistics.median((*self._recent, ratio))
        highest = max(agreed, self._mean * self._believed_step)
        lowest = min(agreed, self._mean / self._believed_step)
        self._recent.append(ratio)
        self._update(min(max(ratio, lowest), highest))
        self._observed_s = now_s

    def factor(self, now_s: float | None = None) -> float:
        """The factor to multiply profiled times with, in [MINIMUM, MAXIMUM]; 1 when nothing recent is known."""
        keep = self._kept(self._clock() if now_s is None else now_s)
        value = 1.0 + keep * (self._mean + self._deviations * self._deviation - 1.0)
        return min(max(value, MINIMUM), MAXIMUM)

    def _update(self, ratio: float) -> None:
        self._deviation += self._weight * (abs(ratio - self._mean) - self._deviation)
        self._mean += self._weight * (ratio - self._mean)

    def _kept(self, now_s: float) -> float:
        """Share of what was learned that still counts at `now_s`."""
        if self._observed_s is None:
            return 1.0
        idle_s = now_s - self._observed_s - self._fresh_s
        return 1.0 if idle_s <= 0 else math.exp(-idle_s / self._forget_s)

    def _forget(self, now_s: float) -> None:
        keep = self._kept(now_s)
        if keep < 1.0:
            self._mean = 1.0 + keep * (self._mean - 1.0)
            self._deviation *= keep
            self._recent.extend((self._mean, self._mean))
