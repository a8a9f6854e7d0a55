"""Residuals: what the global slowdown does not explain, level by level."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

MINIMUM = 0.7
MAXIMUM = 1.5
LEAST_LOG, MOST_LOG = math.log(MINIMUM), math.log(MAXIMUM)


class Residuals:
    """A factor per level beside the global one: prediction = profile x slowdown x residual.

    A profile can be wrong for one level only (measured beside a disturbance, or a co-runner that takes memory bandwidth
    and so hurts the denser ones more). The global factor then is an average over the levels served lately, and wrong
    for each of them. Learned slowly, so that the slowdown, which is quick, explains what hits all levels alike; a
    sample counts as at most a quarter away from what is known, since while a co-runner comes or goes the samples of
    a few runs are off for another reason. What the levels served lately have in common is taken out again, so that the
    geometric mean of their factors, by how often they were served, is 1: it is the slowdown's, and would wander
    else (by 25 % beside a co-runner that came and went ten times while one level was served). Without runs of a
    level its factor returns to 1 as the slowdown does.

    To wire: before the slowdown takes in a run at level l,
        residuals.observe(l, measured_ms / (profiled_ms * slowdown.mean(now_s)), now_s)
    and the slowdown then observes `profiled_ms * residuals.factor(l, now_s)` as the profiled time: else it would learn
    the average of the residuals, too, and both would count.

    Clock readings in seconds. Not thread-safe: its owner locks.
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
        self._shares = [0.0] * level_count  # of the latest runs
        self._observed_s = [-math.inf] * level_count
        self._weight = weight
        self._most_log = math.log(believed_step)
        self._fresh_s = fresh_s
        self._forget_s = forget_s
        self._clock = clock

    def observe(self, level: int, ratio: float, now_s: float | None = None) -> None:
        """Takes in one finished run; ratio: measured over profiled x slowdown. Ignores what is no ratio."""
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
        """The factor of `level`, in [MINIMUM, MAXIMUM]; 1 when nothing recent is known."""
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
