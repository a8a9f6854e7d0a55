"""Counts: running totals of a server's models at one moment."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Durations:
    """A histogram of durations.

    cumulative: (seconds, number of requests that took at most as long), rising, the last at infinity.
    """

    cumulative: tuple[tuple[float, float], ...] = ()

    def since(self, before: Durations) -> Durations:
        """The requests counted after `before`. If `before` has other bounds or higher counts, the server was restarted
        in between; then all requests.
        """
        earlier = dict(before.cumulative)
        if earlier.keys() != dict(self.cumulative).keys():
            return self
        left = tuple((bound, count - earlier[bound]) for bound, count in self.cumulative)
        return self if any(count < 0 for _, count in left) else Durations(left)

    def quantile_ms(self, share: float) -> float | None:
        """The time, ms, within which `share` of the requests ended, interpolated between bounds; None without requests.

        Where it lies beyond the last finite bound, it is not known; then that bound, which is too low.
        """
        total = self.cumulative[-1][1] if self.cumulative else 0
        if total <= 0:
            return None
        low_s, below = 0.0, 0.0
        for bound_s, count in self.cumulative:
            if math.isinf(bound_s):
                break
            if count >= share * total and count > below:
                return 1e3 * (low_s + (bound_s - low_s) * max(0.0, share * total - below) / (count - below))
            low_s, below = bound_s, count
        return 1e3 * low_s


@dataclass(frozen=True, slots=True)
class MetricCounts:
    """The facts of a model that only the metrics give. outcomes: requests by outcome; levels: answers by level."""

    outcomes: Mapping[str, float] = field(default_factory=dict)
    levels: Mapping[int, float] = field(default_factory=dict)
    queue: Durations = Durations()
    compute: Durations = Durations()
    queue_length: float | None = None
    slowdown: float | None = None
    total: Durations = Durations()


@dataclass(frozen=True, slots=True)
class ModelCounts:
    """Totals of one model since its server started. queue_ms, compute_ms: sums over the answered requests.

    metrics: None where the server's metrics were not read.
    """

    name: str
    state: str = "ready"
    answered: int = 0
    failed: int = 0
    queue_ms: float = 0.0
    compute_ms: float = 0.0
    metrics: MetricCounts | None = None


@dataclass(frozen=True, slots=True)
class Counts:
    """The totals of one server at the clock's reading `time_s`.

    server: its name and version. state: "ready", "draining", or "not ready", whose reason the server does not tell.
    note: the parts that could not be read, with the reason; "" if all could.
    """

    time_s: float
    server: str
    state: str
    models: tuple[ModelCounts, ...]
    note: str = ""
