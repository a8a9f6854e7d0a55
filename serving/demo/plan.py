"""Plan: the three phases of load, scaled to what this device can do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nested_sparse.runtime.simulation import poisson

from ..bench.serving.capacity import default_slo_ms
from ..bench.serving.open_loop import Arrival


@dataclass(frozen=True, slots=True)
class Phase:
    """utilisation: arrival rate × service time of the densest level; share: of the plan's phase length."""

    name: str
    utilisation: float
    share: float
    co_runner: bool = False


PHASES = (Phase("quiet", 0.4, 1.0), Phase("burst", 4.0, 0.25), Phase("co-runner", 0.5, 1.0, co_runner=True))
"""A burst is four times what the densest level can do and short, as bursts are; in the last phase the densest level
could carry the load, had it the cores to itself."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is asked of the server: the SLO, and every arrival of one run; the same for each configuration.

    rate_per_s: of requests, by phase; begin_s: second each phase begins at; end_s: at which the last one ends.
    """

    slo_ms: float
    rate_per_s: dict[str, float]
    begin_s: dict[str, float]
    arrivals: tuple[Arrival, ...]
    end_s: float


def make_plan(service_ms: Sequence[float], batch_count: int, phase_s: float, seed: int = 0) -> Plan:
    """Plan for levels that take `service_ms` (sparsest first), requests drawn from `batch_count` strips."""
    densest_ms = service_ms[-1]
    rng = np.random.default_rng(seed)
    rates = {phase.name: 1000.0 * phase.utilisation / densest_ms for phase in PHASES}
    arrivals: list[Arrival] = []
    begin_s: dict[str, float] = {}
    end_s = 0.0
    for phase in PHASES:
        begin_s[phase.name], duration_s = end_s, phase_s * phase.share
        for at_s in poisson(rates[phase.name], duration_s, int(rng.integers(2**31))).times_s:
            arrivals.append(Arrival(end_s + float(at_s), int(rng.integers(batch_count)), phase.name))
        end_s += duration_s
    return Plan(default_slo_ms(service_ms), rates, begin_s, tuple(arrivals), end_s)
