"""InsensitivePolicy: the base of the policies that trust the profile, whatever else the device does."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..profiling import LatencyProfile
from .decision import Decision, Waiting


class InsensitivePolicy:
    """Takes every request in, learns nothing, and sheds nothing: only expired requests are not run."""

    def __init__(self, profile: LatencyProfile) -> None:
        self._profile = profile

    def admit(self, request: Waiting, queue: Sequence[Waiting], busy_ms: float, now_s: float) -> Decision:
        """As LevelPolicy."""
        level = request.lowest_level
        return Decision(level, self._profile.predict_ms(level, request.batch, request.sizes), "admitted")

    def arrived(self, request: Waiting, now_s: float) -> None:
        """As LevelPolicy: it counts no arrivals."""

    def stopped_ms(self, started_s: float, ended_s: float, profiled_ms: float) -> float:
        """As LevelPolicy: it knows no standstills."""
        return 0.0

    def observe(self, level: int, batch: int, service_ms: float, now_s: float) -> None:
        """As LevelPolicy: it learns nothing."""

    def observe_reply(self, reply_ms: float, now_s: float) -> None:
        """As LevelPolicy: nothing is learned."""

    def observe_gap(self, gap_ms: float, now_s: float) -> None:
        """As LevelPolicy: it learns nothing."""

    def spare_ms(self, queue: Sequence[Waiting], now_s: float) -> float:
        """As LevelPolicy: no limit, for the level of its runs never falls."""
        return math.inf

    def slowdown_factor(self, now_s: float) -> float:
        """As LevelPolicy."""
        return 1.0
