"""FixedPolicy: one level for every request."""

from __future__ import annotations

import math
from collections.abc import Sequence

from nested_sparse.level import resolve_level

from ..profiling import LatencyProfile
from .decision import Decision, Waiting
from .forecast import Forecast
from .slowdown import Slowdown


class FixedPolicy:
    """The baseline: one level for all requests, or the nearest that a request allows.

    It sheds a request only where that level cannot finish it in time. Raises LevelError.
    """

    def __init__(
        self, level: int, profile: LatencyProfile, slowdown: Slowdown | None = None, *, workers: int = 1
    ) -> None:
        self._level = resolve_level(level, profile.level_count)
        self._forecast = Forecast(profile, slowdown, workers=workers)

    def admit(self, request: Waiting, queue: Sequence[Waiting], busy_ms: float, now_s: float) -> Decision:
        """As LevelPolicy."""
        return self._forecast.admit(request, queue, self._floor, busy_ms, now_s)

    def arrived(self, request: Waiting, now_s: float) -> None:
        """As LevelPolicy: it counts no arrivals."""

    def choose(self, request: Waiting, queue: Sequence[Waiting], now_s: float) -> Decision:
        """As LevelPolicy."""
        slowdown = self._forecast.slowdown.factor(now_s)
        hopeless = self._forecast.probe_or_shed(request, queue, self._floor, slowdown, now_s)
        if hopeless is not None:
            return hopeless
        level = self._floor(request)
        return Decision(
            level,
            self._forecast.profiled_ms(level, request.batch, request.sizes) * slowdown,
            f"fixed at level {self._level}",
        )

    def stopped_ms(self, started_s: float, ended_s: float, profiled_ms: float) -> float:
        """As LevelPolicy: it knows no standstills."""
        return 0.0

    def observe(self, level: int, batch: int, service_ms: float, now_s: float) -> None:
        """As LevelPolicy."""
        self._forecast.observe(level, batch, service_ms, now_s)

    def observe_gap(self, gap_ms: float, now_s: float) -> None:
        """As LevelPolicy."""
        self._forecast.observe_gap(gap_ms)

    def observe_reply(self, reply_ms: float, now_s: float) -> None:
        """As LevelPolicy: its level is the same whatever replies take."""

    def spare_ms(self, queue: Sequence[Waiting], now_s: float) -> float:
        """As LevelPolicy: no limit, for the level of its runs never falls."""
        return math.inf

    def slowdown_factor(self, now_s: float) -> float:
        """As LevelPolicy."""
        return self._forecast.slowdown.factor(now_s)

    def _floor(self, request: Waiting) -> int:
        return min(max(self._level, request.lowest_level), request.highest_level)
