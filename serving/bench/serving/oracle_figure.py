"""The figures of the offline oracle: the elastic policy in virtual time, beside a schedule that knows the future."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from nested_sparse.errors import InputError
from nested_sparse.runtime.policy import ELASTIC
from nested_sparse.runtime.profiling import LatencyProfile
from nested_sparse.runtime.simulation import (
    FIXED,
    LOAD,
    ORACLE,
    PolicyFactory,
    PolicyRow,
    World,
    compare,
    default_contentions,
    default_policies,
    default_traces,
    misses_of_fixed,
)

from ..reach import Reach
from .figure import Figure

NAME = "effective accuracy / that of the offline oracle, simulator, worst trace"
CONTENDED = "the same beside contention (CPU, memory, quota), which the oracle foresees, mean of traces"
REACH = Reach(">=", 0.98)
NO_MARGIN = {"reply_margin_ms": 0.0, "reply_margin_share": 0.0}
QUOTA = "the same beside a CPU quota, mean of traces"
QUOTA_REACH = Reach(">=", 0.95)
UNDISTURBED = "none"
MISSES = "misses at equal mean accuracy, offline oracle / fixed, simulator, bursty traces"
BURSTY = ("gamma 4", "gamma 8")
"""The simulator's names of the traces that the load test calls bursty."""


@dataclass(frozen=True, slots=True)
class ServedLevels:
    """The levels of a checkpoint on this device, as the load asks for them.

    batch: samples of a request. service_ms, accuracy: of a request, by level. slo_ms: of every request.
    """

    batch: int
    service_ms: Sequence[float]
    accuracy: Sequence[float]
    slo_ms: float


def oracle_figures(levels: ServedLevels, requests: int, seed: int, arrivals: Path | None = None) -> list[Figure]:
    """The share of the oracle's score that elastic reaches: the least over the traces, and the mean beside contention.

    Then the misses of the oracle's schedule beside those of fixed levels, which tell about how few there can be. The
    simulated device takes the `service_ms` of `levels`. requests: about so many in a trace. arrivals: file of one
    trace more. The oracle's score is a proven upper bound. No time is kept back for the reply: there is none in virtual
    time, and the oracle uses the whole SLO, too.
    """
    profile = LatencyProfile((1,), [[ms] for ms in levels.service_ms])
    world = World(profile, levels.accuracy, levels.slo_ms, seed=seed)
    simulated_s = requests / (LOAD * world.capacity_per_s)
    try:
        played = default_traces(world, simulated_s, seed, arrivals)
        contentions = default_contentions(simulated_s, seed)
        bursty = [each for each in played if each.name in BURSTY]
        others = [each for each in played if each.name not in BURSTY]
        rows = [
            *compare(others, contentions, _elastic, world, **NO_MARGIN),
            *compare(bursty, contentions, _elastic_and_fixed, world, **NO_MARGIN),
        ]
    except InputError as error:  # a trace too short for the file or for a contention
        return [Figure(NAME, "", REACH, unavailable=str(error))]
    return [*oracle_summary(rows), oracle_misses(rows)]


def _elastic(world: World) -> dict[str, PolicyFactory]:
    return {ELASTIC: default_policies(world)[ELASTIC]}


def _elastic_and_fixed(world: World) -> dict[str, PolicyFactory]:
    return {
        name: policy for name, policy in default_policies(world).items() if name == ELASTIC or name.startswith(FIXED)
    }


def oracle_summary(rows: Sequence[PolicyRow]) -> list[Figure]:
    """The figures computed from the rows of a simulated comparison."""
    shares = {(row.trace, row.contention): row.of_oracle for row in rows if row.policy == ELASTIC}
    alone = {trace: share for (trace, contention), share in shares.items() if contention == UNDISTURBED}
    worst = min(alone, key=lambda trace: alone[trace])
    note = ", ".join(f"{trace} {share:.3f}" for trace, share in alone.items())
    figures = [Figure(NAME, "", REACH, alone[worst], note, details={"by_trace": alone})]
    kinds = sorted({contention for _, contention in shares} - {UNDISTURBED})
    if kinds:
        means = {kind: fmean(share for (_, each), share in shares.items() if each == kind) for kind in kinds}
        beside = {f"{trace} with {kind}": share for (trace, kind), share in shares.items() if kind != UNDISTURBED}
        note = ", ".join(f"{kind} {share:.3f}" for kind, share in means.items())
        figures.append(Figure(CONTENDED, "", None, fmean(beside.values()), note, details={"by_cell": beside}))
        if "quota" in means:
            each = [share for (_, kind), share in shares.items() if kind == "quota"]
            note = f"worst trace {min(each):.3f}; the quota stands still for half of each period, in half of the time"
            figures.append(Figure(QUOTA, "", QUOTA_REACH, means["quota"], note))
    return figures


def oracle_misses(rows: Sequence[PolicyRow]) -> Figure:
    """Misses of the oracle's schedule / misses of a fixed level of the same mean accuracy, bursty traces together.

    No policy without knowledge of the future can be expected to miss less at its accuracy.
    """
    bursty = [row for row in rows if row.trace in BURSTY]
    least, ours = misses_of_fixed(bursty, ORACLE), misses_of_fixed(bursty, ELASTIC)
    if math.isnan(least) or math.isnan(ours):
        return Figure(MISSES, "×", None, unavailable="no fixed level of that accuracy missed anything")
    note = f"elastic {ours:.3f} in the simulator, with and without contention; the oracle knows each arrival beforehand"
    return Figure(MISSES, "×", None, least, note, details={"elastic": ours})
