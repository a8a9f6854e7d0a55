"""Residuals: the factor of each level that the global slowdown does not explain."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

MINIMUM = 0.7
MAXIMUM = 1.5
LEAST_LOG, MOST_LOG = math.log(MINIMUM), math.log(MAXIMUM)


class Residuals:
    """A factor per level beside the global one: prediction = profile x slowdown x residual.

    A profile can be wrong for one level only: it was measured beside a disturbance, or a co-runner takes memory
    bandwidth and so slows the denser levels down more. Then the global factor is an average over the levels that were
    served lately, and wrong for each of them.

    Residuals are learned slowly; the slowdown is learned quickly and so explains what all levels have in common. A
    sample counts as at most `believed_step` away from the known factor, because a few runs are off for another reason
    while a co-runner comes or goes. The part that the levels served lately have in common belongs to the slowdown, and
    is taken out: the geometric mean of their factors, weighted by how often they were served, is 1. Without that it
    would wander, by 25 % beside a co-runner that came and went ten times while one level was served. Without runs of a
    level its factor returns to 1, as the slowdown does.

    A run is first given to the residuals, as its ratio to profiled time × slowdown. The slowdown then gets profiled
    time × residual as the profiled time; otherwise it would learn the average of the residuals too, and both would
    count (Forecast.observe).

    weight: of one more run. fresh_s, forget_s: as of Slowdown. Clock readings are in seconds. Not thread-safe: the
    owner locks.
    """

    def __init__(
        self,
        level_count: int,
        *,
        weight: float = 0.05,
        believed_step: float = 1.25,
        fresh_s: float = 1.0,
        forget_s: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._logs = [0.0] * level_count
        self._shares = [0.0] * level_count  # share of each level in the latest runs
        self._observed_s = [-math.inf] * level_count
        self._weight = weight
        self._most_log = math.log(believed_step)
        self._fresh_s = fresh_s
        self._forget_s = forget_s
        self._clock = clock

    def observe(self, level: int, ratio: float, now_s: float | None = None) -> None:
        """Learn from a run that has ended. A value that is no ratio is ignored.

        ratio: measured time over profiled time × slowdown.
        """
        if not (ratio > 0 and math.isfinite(ratio)):
            return
        now_s = self._clock() if now_s is None else now_s
        known = self._log(level, now_s)
        away = min(max(math.log(ratio) - known, -self._most_log), self._most_log)
        self._logs[level] = known + self._weight * away
        self._observed_s[level] = now_s
        self._shares = [share * (1.0 - self._weight) for share in self._shares]
        self._shares[level] += self._weight
        self._take_out_common()

    def factor(self, level: int, now_s: float | None = None) -> float:
        """The factor of `level`, in [MINIMUM, MAXIMUM]; 1 where no run is recent."""
        return math.exp(self._log(level, self._clock() if now_s is None else now_s))

    def _log(self, level: int, now_s: float) -> float:
        idle_s = now_s - self._observed_s[level] - self._fresh_s
        return self._logs[level] * (1.0 if idle_s <= 0 else math.exp(-idle_s / self._forget_s))

    def _take_out_common(self) -> None:
        weighed = sum(share * each for share, each in zip(self._shares, self._logs, strict=True))
        common = weighed / sum(self._shares)
        for level, share in enumerate(self._shares):
            if share > 0:
                self._logs[level] = min(max(self._logs[level] - common, LEAST_LOG), MOST_LOG)
