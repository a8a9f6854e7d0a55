"""LevelPolicy: which level a request runs at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from nested_sparse.errors import LevelError
from nested_sparse.level import resolve_level
from nested_sparse.runtime.arrivals import Arrivals
from nested_sparse.runtime.forecast import Decision, Forecast, Waiting
from nested_sparse.runtime.profile import LatencyProfile
from nested_sparse.runtime.ramp import Ramp
from nested_sparse.runtime.slowdown import Slowdown


class LevelPolicy(Protocol):
    """Decides at submission whether to take a request in, and at dequeue at which level to run it.

    `queue` is what waits behind, earliest deadline first; `now_s` a reading of the scheduler's clock, as are all
    deadlines. Calls come one at a time.
    """

    def admit(self, request: Waiting, queue: Sequence[Waiting], busy_ms: float, now_s: float) -> Decision:
        """Called once per request when it comes in; busy_ms until a worker is free. A level of None sheds it."""

    def choose(self, request: Waiting, queue: Sequence[Waiting], now_s: float) -> Decision:
        """Called when `request` is next. The level is within what the request allows; None sheds it."""

    def observe(self, level: int, batch: int, service_ms: float, now_s: float) -> None:
        """Called after every run."""

    def slowdown_factor(self, now_s: float) -> float:
        """Predicted / profiled time, for logs and statistics."""


class FixedPolicy:
    """The baseline: one level for all, within what each allows. Sheds only what that level cannot finish in time."""

    def __init__(
        self, level: int, profile: LatencyProfile, slowdown: Slowdown | None = None, *, workers: int = 1
    ) -> None:
        self._level = resolve_level(level, profile.level_count)
        self._forecast = Forecast(profile, slowdown, workers=workers)

    def admit(self, request: Waiting, queue: Sequence[Waiting], busy_ms: float, now_s: float) -> Decision:
        """As LevelPolicy."""
        return self._forecast.admit(request, queue, self._floor, busy_ms, now_s)

    def choose(self, request: Waiting, queue: Sequence[Waiting], now_s: float) -> Decision:
        """As LevelPolicy."""
        late = self._forecast.too_late(request, queue, self._floor, now_s)
        if late is not None:
            return late
        level = self._floor(request)
        return Decision(level, self._forecast.run_ms(level, request.batch, now_s), f"fixed at level {self._level}")

    def observe(self, level: int, batch: int, service_ms: float, now_s: float) -> None:
        """As LevelPolicy."""
        self._forecast.observe(level, batch, service_ms, now_s)

    def slowdown_factor(self, now_s: float) -> float:
        """As LevelPolicy."""
        return self._forecast.slowdown.factor(now_s)

    def _floor(self, request: Waiting) -> int:
        return min(max(self._level, request.lowest_level), request.highest_level)


WINDOW_S = 1.0
WINDOW_RUNS = 20
"""The rate of arrival is that of the last second, or of 20 runs of the densest level where that is longer: fewer say
little about a rate."""


class ElasticPolicy:
    """The densest level that meets this deadline and leaves the queue behind feasible at its lowest levels.

    Predictions are profile × slowdown (Clipper, NSDI'17; ALERT, USENIX ATC'20). If the queue cannot be saved even by
    the lowest level, that is what runs. Nor does a level run that would keep the workers busy more than
    `fall_utilisation` of the time at the present rate of arrival: without that rule a burst fills the queue up to the
    last feasible request before the level falls, and every later clump of arrivals is shed.

    Down at once; up one level at a time, after `rise_decisions` decisions or `rise_s` seconds for which the next level
    would have left `rise_margin` of the time unused and kept the workers busy no more than `rise_utilisation`: a level
    that fits the moment but not the rate of arrival would have to be left again as soon as the queue has grown.

    Requests are held back together with those that an idle device would run at the same level: that one request is too
    tight for a dense level says nothing about load, and does not hold back one with time to spare.
    """

    def __init__(
        self,
        profile: LatencyProfile,
        slowdown: Slowdown | None = None,
        *,
        workers: int = 1,
        rise_decisions: int = 8,
        rise_s: float = 1.0,
        rise_margin: float = 0.15,
        rise_utilisation: float = 0.8,
        fall_utilisation: float = 0.9,
    ) -> None:
        self._forecast = Forecast(profile, slowdown, workers=workers)
        densest_ms = profile.predict_ms(profile.level_count - 1, profile.batches[-1])
        self._arrivals = Arrivals(max(WINDOW_S, WINDOW_RUNS * densest_ms / 1e3))
        self._rise_share = 1.0 - rise_margin
        self._rise_utilisation = rise_utilisation
        self._fall_utilisation = fall_utilisation
        self._ramps = [Ramp(level, rise_decisions, rise_s) for level in range(profile.level_count)]

    def admit(self, request: Waiting, queue: Sequence[Waiting], busy_ms: float, now_s: float) -> Decision:
        """As LevelPolicy."""
        self._arrivals.note(request.batch, now_s)
        return self._forecast.admit(request, queue, _lowest, busy_ms, now_s)

    def choose(self, request: Waiting, queue: Sequence[Waiting], now_s: float) -> Decision:
        """As LevelPolicy. Raises LevelError if the request allows a level that was not profiled."""
        if not 0 <= request.lowest_level <= request.highest_level < len(self._ramps):
            raise LevelError(
                f"levels {request.lowest_level} to {request.highest_level} were asked for, "
                f"the profile has 0 to {len(self._ramps) - 1}"
            )
        late = self._forecast.too_late(request, queue, _lowest, now_s)
        if late is not None:
            return late
        slack_ms = request.slack_ms(now_s)
        spare_ms = self._forecast.spare_ms(queue, _lowest, now_s)
        room_ms = min(slack_ms, spare_ms)
        factor = self._forecast.slowdown.factor(now_s)
        fitting = self._sustainable(self._densest(request, room_ms / factor), request, now_s)
        budget_ms = slack_ms if request.budget_ms is None else request.budget_ms
        ramp = self._ramps[self._densest(request, budget_ms)]
        comfortable = ramp.level < request.highest_level and self._comfortable(ramp.level + 1, request, room_ms, now_s)
        level = max(ramp.step(fitting, comfortable, now_s), request.lowest_level)
        predicted_ms = self._forecast.run_ms(level, request.batch, now_s)
        return Decision(level, predicted_ms, _reason(level, fitting, request, slack_ms, spare_ms, factor))

    def observe(self, level: int, batch: int, service_ms: float, now_s: float) -> None:
        """As LevelPolicy."""
        self._forecast.observe(level, batch, service_ms, now_s)

    def slowdown_factor(self, now_s: float) -> float:
        """As LevelPolicy."""
        return self._forecast.slowdown.factor(now_s)

    def _densest(self, request: Waiting, profiled_ms: float) -> int:
        """The densest allowed level whose profiled time is at most `profiled_ms`; the lowest allowed one if none is."""
        for level in range(request.highest_level, request.lowest_level, -1):
            if self._forecast.profile.predict_ms(level, request.batch) <= profiled_ms:
                return level
        return request.lowest_level

    def _comfortable(self, level: int, request: Waiting, room_ms: float, now_s: float) -> bool:
        """Whether `level` fits with a margin and could be kept up at the present rate of arrival."""
        if self._forecast.run_ms(level, request.batch, now_s) > room_ms * self._rise_share:
            return False
        return self._utilisation(level, now_s) <= self._rise_utilisation

    def _sustainable(self, level: int, request: Waiting, now_s: float) -> int:
        """`level`, or the densest below it that the workers could keep up at the present rate of arrival."""
        while level > request.lowest_level and self._utilisation(level, now_s) > self._fall_utilisation:
            level -= 1
        return level

    def _utilisation(self, level: int, now_s: float) -> float:
        """Busy share of the workers if all that arrives ran at `level`."""
        busy = self._arrivals.utilisation(lambda batch: self._forecast.run_ms(level, batch, now_s), now_s)
        return busy / self._forecast.workers


def _lowest(request: Waiting) -> int:
    return request.lowest_level


def _reason(level: int, fitting: int, request: Waiting, slack_ms: float, spare_ms: float, factor: float) -> str:
    if level == request.highest_level:
        return f"the densest allowed fits {slack_ms:.1f} ms"
    if level < fitting:
        return f"level {fitting} fits {slack_ms:.1f} ms, but rising slowly"
    if spare_ms < slack_ms:
        return f"the queue behind leaves {spare_ms:.1f} ms (slowdown {factor:.2f})"
    return f"{slack_ms:.1f} ms left (slowdown {factor:.2f})"
