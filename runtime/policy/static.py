"""StaticPolicy: one level chosen offline, by the profile and the SLO."""

from __future__ import annotations

from collections.abc import Sequence

from ..profiling import LatencyProfile
from .decision import Decision, Waiting
from .insensitive import InsensitivePolicy


class StaticPolicy(InsensitivePolicy):
    """Like INFaaS (ATC'21): one level, chosen offline by the profile for a rate and an SLO, and kept.

    It is the densest level whose run takes no longer than the SLO and, at that rate, keeps the workers busy for no more
    than `utilisation` of the time; the sparsest level if none does.
    """

    def __init__(
        self, profile: LatencyProfile, *, rate_per_s: float, slo_ms: float, workers: int = 1, utilisation: float = 0.9
    ) -> None:
        super().__init__(profile)
        fitting = [
            level
            for level in range(profile.level_count)
            if profile.predict_ms(level) <= slo_ms
            and profile.predict_ms(level) * rate_per_s / 1e3 <= utilisation * workers
        ]
        self.level = max(fitting, default=0)

    def choose(self, request: Waiting, queue: Sequence[Waiting], now_s: float) -> Decision:
        """As LevelPolicy. A request that does not allow the level runs at the nearest one that it allows."""
        level = min(max(self.level, request.lowest_level), request.highest_level)
        return Decision(
            level, self._profile.predict_ms(level, request.batch, request.sizes), f"static at level {self.level}"
        )
