"""Slowdown: the factor by which this device runs slower now than when it was profiled."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

MINIMUM = 0.5
MAXIMUM = 50.0


class Slowdown:
    """One global factor xi = measured / profiled time, for every level at once.

    Only the level that was served yields samples, so a global factor keeps the predictions of the other levels fresh.
    It sees contention, throttling, steal and heat together (ALERT, USENIX ATC'20: mean + k * deviation).

    One slow request must not send the server to its lowest level, and a lasting co-runner must be seen at once. So a
    sample that leaves the mean by more than `believed_step` counts as that step only, until `rise_after` samples in a
    row left it upwards, or `fall_after` downwards. Then the device has changed, and mean and deviation begin anew from
    these samples. An average that moved there slowly would overshoot, by the deviation that it gathers on the way, and
    again when the co-runner leaves. Falling takes longer, because some runs are quick beside a co-runner that comes and
    goes. Without samples the factor returns to 1, with time constant `forget_s`, once `fresh_s` have passed.

    renewed: number of samples from which the latest one began mean and deviation anew; 0 where it did not.

    Times are in milliseconds where the name says so, clock readings in seconds. Not thread-safe: the owner locks.
    """

    def __init__(
        self,
        *,
        weight: float = 0.4,
        deviations: float = 1.5,
        believed_step: float = 1.5,
        rise_after: int = 2,
        fall_after: int = 6,
        fresh_s: float = 1.0,
        forget_s: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._weight = weight
        self._deviations = deviations
        self._believed_step = believed_step
        self._rise_after = rise_after
        self._fall_after = fall_after
        self._fresh_s = fresh_s
        self._forget_s = forget_s
        self._clock = clock
        self._mean = 1.0
        self._deviation = 0.0
        self._departed: list[float] = []  # the latest samples, as far as all left the mean to one side
        self._departed_from = 1.0  # the mean that they left
        self._observed_s: float | None = None
        self.renewed = 0

    def observe(self, measured_ms: float, profiled_ms: float, now_s: float | None = None) -> None:
        """Learn from a run that has ended. Times without a ratio are ignored (a clock that stood still, 0 profiled)."""
        if not (measured_ms > 0 and profiled_ms > 0 and math.isfinite(measured_ms)):
            return
        now_s = self._clock() if now_s is None else now_s
        self.renewed = 0
        self._forget(now_s)
        ratio = min(max(measured_ms / profiled_ms, MINIMUM), MAXIMUM)
        known = self._departed_from if self._departed else self._mean
        lowest, highest = known / self._believed_step, known * self._believed_step
        if lowest <= ratio <= highest:
            self._departed.clear()
            self._update(ratio)
        else:
            self._depart(ratio, min(max(ratio, lowest), highest))
        self._observed_s = now_s

    def factor(self, now_s: float | None = None) -> float:
        """The factor to multiply profiled times with, in [MINIMUM, MAXIMUM]; 1 where no run is recent."""
        keep = self._kept(self._clock() if now_s is None else now_s)
        value = 1.0 + keep * (self._mean + self._deviations * self._deviation - 1.0)
        return min(max(value, MINIMUM), MAXIMUM)

    def mean(self, now_s: float | None = None) -> float:
        """The factor without its allowance for scatter: the expected ratio of measured to profiled time."""
        keep = self._kept(self._clock() if now_s is None else now_s)
        return 1.0 + keep * (self._mean - 1.0)

    def _depart(self, ratio: float, step: float) -> None:
        """Learn from a sample that leaves the mean; it counts as `step` while there are too few of them."""
        if not self._departed:
            self._departed_from = self._mean
        rises = ratio > self._departed_from
        if self._departed and (self._departed[-1] > self._departed_from) != rises:
            self._departed.clear()
        self._departed.append(ratio)
        if len(self._departed) < (self._rise_after if rises else self._fall_after):
            self._update(step)
            return
        self._mean = sum(self._departed) / len(self._departed)
        self._deviation = sum(abs(each - self._mean) for each in self._departed) / len(self._departed)
        self.renewed = len(self._departed)
        self._departed.clear()

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
            self._departed.clear()
