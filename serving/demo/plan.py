"""LoadPlan: the three phases of load, scaled to the speed of this device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nested_sparse.runtime.simulation import poisson

from ..bench.serving.capacity import default_slo_ms
from ..bench.serving.open_loop import Arrival


@dataclass(frozen=True, slots=True)
class Phase:
    """A phase of the load.

    utilisation: arrival rate × service time of the densest level. share: length, as a share of the plan's phase length.
    co_runner: whether busy processes run beside the server.
    """

    name: str
    utilisation: float
    share: float
    co_runner: bool = False


PHASES = (Phase("quiet", 0.4, 1.0), Phase("burst", 4.0, 0.25), Phase("co-runner", 0.5, 1.0, co_runner=True))
"""The burst is short and asks for four times the capacity of the densest level. In the last phase the densest level
could carry the load if it had the cores for itself."""


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """The load of one run, the same for each configuration: the SLO and every arrival.

    rate_per_s: rate of requests, by phase; begin_s: second at which each phase begins; end_s: end of the last phase.
    """

    slo_ms: float
    rate_per_s: dict[str, float]
    begin_s: dict[str, float]
    arrivals: tuple[Arrival, ...]
    end_s: float


def make_plan(service_ms: Sequence[float], batch_count: int, phase_s: float, seed: int = 0) -> LoadPlan:
    """The plan for levels that take `service_ms`, sparsest first; each request carries one of `batch_count` strips."""
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
    return LoadPlan(default_slo_ms(service_ms), rates, begin_s, tuple(arrivals), end_s)
