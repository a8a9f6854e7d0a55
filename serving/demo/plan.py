"""Plan: the three phases of load, scaled to what this device can do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nested_sparse.serving.demo.open_loop import Arrival, poisson_times

STRIP = 8
"""Images in a request: a strip of digits, as a meter or postal code reader sends them."""

PHASES = ("quiet", "burst", "co-runner")
UTILISATION = {"quiet": 0.3, "burst": 1.5, "co-runner": 0.4}
"""Arrival rate × service time of the densest level: a burst is more than it can do, the co-runner phase has a load that
it could carry alone."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is asked of the server: the SLO, and every arrival of one run; the same for each configuration."""

    slo_ms: float
    rate_per_s: dict[str, float]
    arrivals: tuple[Arrival, ...]
    phase_s: float

    def begins(self) -> dict[str, float]:
        """Second each phase begins at."""
        return {phase: index * self.phase_s for index, phase in enumerate(PHASES)}


def make_plan(service_ms: Sequence[float], batch_count: int, phase_s: float, seed: int = 0) -> Plan:
    """Plan for levels that take `service_ms` (sparsest first), requests drawn from `batch_count` strips.

    The SLO is three times the densest level's service time, at least 20 ms above it: tight enough that a queue of three
    breaks it, loose enough that Poisson arrivals in the quiet phase do not.
    """
    densest_ms = service_ms[-1]
    rng = np.random.default_rng(seed)
    rates = {phase: 1000.0 * UTILISATION[phase] / densest_ms for phase in PHASES}
    arrivals = []
    for index, phase in enumerate(PHASES):
        for at_s in poisson_times(rates[phase], phase_s, rng):
            arrivals.append(Arrival(index * phase_s + float(at_s), int(rng.integers(batch_count)), phase))
    return Plan(max(3.0 * densest_ms, densest_ms + 20.0), rates, tuple(arrivals), phase_s)
