"""Demand: the replicas that a load needs, so that it has slack for the densest level.

The levels hide an overload: each request gets a sparser one, and its deadline is met. So the cluster grows by the load
that the same requests are at the densest level that the deadline leaves slack for.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence

from ..level_counts import Tally
from ..served_model import ServedModel

LATE_SHARE = 0.01
"""Share of requests that may wait longer than their slack."""
LEAST_LOAD = 0.1
"""Share of its time that a replica works at least, where the slack is short. It bounds the number of replicas."""
OFFERED = ("shed", "expired")
"""Outcomes of requests that were to be answered, and were not because too many came."""


class Demand:
    """Counts the samples between two readings; a request that was not answered counts as one.

    models: of a replica, which share its device. tallies: their counts.
    """

    def __init__(
        self,
        models: Sequence[ServedModel],
        tallies: Mapping[ServedModel, Tally],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._models, self._tallies, self._clock = models, tallies, clock
        self._read_s = clock()
        self._offered = dict.fromkeys(models, 0)

    def replicas(self) -> float:
        """The number of replicas like this one that the requests since the last reading need."""
        now_s = self._clock()
        seconds = max(now_s - self._read_s, 1e-3)
        self._read_s = now_s
        return sum(self._needed(model, seconds) for model in self._models)

    def _needed(self, model: ServedModel, seconds: float) -> float:
        tally = self._tallies[model]
        before, self._offered[model] = self._offered[model], tally.samples + sum(tally.failed[each] for each in OFFERED)
        samples_per_s = (self._offered[model] - before) / seconds
        return needed_replicas(samples_per_s, model.run_ms, model.default_slo_ms, model.engine.stats().slowdown)


def needed_replicas(samples_per_s: float, run_ms: Sequence[float], slo_ms: float, slowdown: float) -> float:
    """The replicas at which requests at this rate have slack for the densest level that leaves any.

    run_ms: of each level, with nothing else on the device. slo_ms: from arrival to answer. slowdown: measured over
    profiled time of a run. 0.0 where nothing was profiled.
    """
    if not run_ms:
        return 0.0
    shares = [load_with_slack(each * slowdown, slo_ms) for each in run_ms]
    level = max((index for index, share in enumerate(shares) if share > LEAST_LOAD), default=0)
    return samples_per_s * run_ms[level] * slowdown / 1e3 / max(shares[level], LEAST_LOAD)


def load_with_slack(run_ms: float, slo_ms: float) -> float:
    """The share of its time that a replica may work while all but LATE_SHARE of requests wait at most their slack.

    The slack is `slo_ms - run_ms`. The tail of the wait is that of a queue with Poisson arrivals and equal runs in
    heavy traffic: P(wait > t) = exp(-2 (1 - load) t / run_ms) (Kingman, "The single server queue in heavy traffic",
    1961).
    Below 0 where the run alone takes most of the SLO.
    """
    slack_ms = slo_ms - run_ms
    if slack_ms <= 0.0:
        return -math.inf
    return 1.0 - math.log(1.0 / LATE_SHARE) / 2.0 * run_ms / slack_ms
