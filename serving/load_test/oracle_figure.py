"""The row of the offline oracle: our policy in virtual time, beside one who knows the future."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from nested_sparse.errors import InputError
from nested_sparse.runtime.profile import LatencyProfile
from nested_sparse.runtime.simulation.comparison import (
    LOAD,
    Row,
    compare,
    default_contentions,
    default_policies,
    default_traces,
)
from nested_sparse.runtime.simulation.world import World
from nested_sparse.serving.bench.row import Reach
from nested_sparse.serving.load_test.comparison import ELASTIC
from nested_sparse.serving.load_test.figure import Figure

NAME = "effective accuracy / that of the offline oracle, simulator, worst trace"
REACH = Reach(">=", 0.98)


def oracle_figure(
    service_ms: Sequence[float],
    accuracy: Sequence[float],
    slo_ms: float,
    arrivals: Path | None,
    seed: int,
    requests: int,
) -> Figure:
    """The least share of the oracle's score that elastic reaches on a trace, mean over quiet and every contention.

    The simulated device takes `service_ms` per request and level, which score `accuracy`. A trace has
    about `requests` of them. The oracle's score is a proven upper bound.
    """
    profile = LatencyProfile((1,), [[ms] for ms in service_ms])
    world = World(profile, accuracy, slo_ms, seed=seed)
    elastic = {ELASTIC: default_policies(world)[ELASTIC]}
    simulated_s = requests / (LOAD * world.capacity_per_s)
    try:
        played = default_traces(world, simulated_s, seed, arrivals)
        with _unlogged():
            rows = compare(played, default_contentions(simulated_s, seed), elastic, world)
    except InputError as error:  # a trace too short for the file or for a contention
        return Figure(NAME, "", REACH, unavailable=str(error))
    return oracle_summary(rows)


@contextmanager
def _unlogged() -> Iterator[None]:
    """Level changes of virtual servers are no news."""
    logger = logging.getLogger("nested_sparse.runtime")
    before = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(before)


def oracle_summary(rows: Sequence[Row]) -> Figure:
    """The row of a comparison's rows."""
    by_trace: dict[str, dict[str, float]] = {}
    for row in rows:
        if row.policy == ELASTIC:
            by_trace.setdefault(row.trace, {})[row.contention] = row.of_oracle
    means = {trace: sum(shares.values()) / len(shares) for trace, shares in by_trace.items()}
    worst = min(means, key=lambda trace: means[trace])
    note = "mean over contentions: " + ", ".join(f"{trace} {share:.3f}" for trace, share in means.items())
    return Figure(NAME, "", REACH, means[worst], note, details={"by_trace": by_trace})
