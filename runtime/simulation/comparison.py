"""Comparison: several policies on traces under contention, each against the oracle."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..policy import ELASTIC, POLICIES, SLACKFIT, FixedPolicy, LevelPolicy, Served, StaticPolicy
from ..profiling import LatencyProfile
from . import contention, traces
from .contention import RateContention
from .oracle import oracle
from .play import simulate
from .traces import Trace
from .world import World

LOAD = 0.7
"""Mean rate, as a share of the undisturbed densest level's capacity. With bursts or a co-runner, a mix of levels is
needed."""
BURSTINESS = (2.0, 4.0, 8.0)
FIXED = "fixed"
"""Begins the names of the policies that keep one level."""
PolicyFactory = Callable[[LatencyProfile], LevelPolicy]


@dataclass(frozen=True, slots=True)
class PolicyRow:
    """One policy on one trace under one contention; all offered requests count, those not in time as wrong.

    cv2: of the trace, as achieved.  of_oracle: effective accuracy as a share of the oracle's proven upper bound.
    levels: answers in time per level.
    """

    trace: str
    cv2: float
    contention: str
    policy: str
    offered: int
    effective_accuracy: float
    of_oracle: float
    attainment: float
    mean_accuracy: float
    misses: int
    levels: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Figures:
    """The figures of all rows. A gain is a difference of effective accuracy: the least over all, and the mean.

    fixed_gain: against the best fixed level of each trace and contention.
    slackfit_gain: against SlackFit, where there is contention.
    of_oracle: by trace, without contention; contended_of_oracle: mean over the contentions.
    fixed_misses: misses of fixed levels of the same mean accuracy (two levels, mixed to reach it) / misses of the
    policy, on traces of CV² above 1.5, all contentions together.
    """

    least_fixed_gain: float
    mean_fixed_gain: float
    least_slackfit_gain: float
    mean_slackfit_gain: float
    of_oracle: dict[str, float]
    contended_of_oracle: dict[str, float]
    fixed_misses: float


def default_traces(
    world: World, duration_s: float = 40.0, seed: int = 0, file: str | Path | None = None
) -> list[Trace]:
    """Poisson, Gamma of CV² 2, 4 and 8, a ramp from 0.2 to 1.2 of the densest level's capacity, and `file` if given."""
    rate_per_s = LOAD * world.capacity_per_s
    made = [traces.poisson(rate_per_s, duration_s, seed)]
    made += [traces.gamma(rate_per_s, duration_s, cv2, seed) for cv2 in BURSTINESS]
    made.append(traces.ramp(0.2 * world.capacity_per_s, (2 * LOAD - 0.2) * world.capacity_per_s, duration_s, seed))
    if file is not None:
        made.append(traces.arrivals_of(file, rate_per_s, duration_s))
    return made


def default_contentions(duration_s: float = 40.0, seed: int = 0) -> list[RateContention]:
    """None, a CPU co-runner, a memory co-runner, a quota."""
    return [
        contention.quiet(),
        contention.cpu_corunner(duration_s, seed),
        contention.memory_corunner(duration_s),
        contention.quota(duration_s),
    ]


def default_policies(world: World) -> dict[str, PolicyFactory]:
    """POLICIES, every fixed level, and a static choice made for the mean rate."""
    rate_per_s = LOAD * world.capacity_per_s
    fixed: dict[str, PolicyFactory] = {
        f"{FIXED} {level}": lambda profile, level=level: FixedPolicy(level, profile)  # type: ignore[misc]
        for level in range(world.profile.level_count)
    }
    named: dict[str, PolicyFactory] = {
        name: lambda profile, kind=kind: kind.make(Served(profile, quota=lambda: world.contention.quota))  # type: ignore[misc]
        for name, kind in POLICIES.items()
    }
    return {
        **named,
        **fixed,
        "static": lambda profile: StaticPolicy(profile, rate_per_s=rate_per_s, slo_ms=world.slo_ms),
    }


def compare(
    played: Iterable[Trace],
    contentions: Sequence[RateContention],
    policies: Callable[[World], Mapping[str, PolicyFactory]],
    world: World | None = None,
    **options: Any,
) -> list[PolicyRow]:
    """A row for each trace, contention and policy, and one for the oracle.

    policies: makes those of a world. options: go to the Scheduler.
    """
    world = World() if world is None else world
    rows: list[PolicyRow] = []
    for trace in played:
        for each in contentions:
            there = replace(world, contention=each)
            best = oracle(trace, there).upper
            offered = len(trace.times_s)
            for name, policy in policies(there).items():
                summary = simulate(policy, trace, there, **options).summary
                row = PolicyRow(
                    trace=trace.name,
                    cv2=trace.cv2,
                    contention=each.name,
                    policy=name,
                    offered=offered,
                    effective_accuracy=summary.effective_accuracy,
                    of_oracle=summary.effective_accuracy / best if best > 0 else math.nan,
                    attainment=summary.attainment,
                    mean_accuracy=summary.mean_accuracy,
                    misses=summary.misses,
                    levels=summary.levels,
                )
                rows.append(row)
            # the oracle's schedule is not kept: its attainment, misses and levels are not known
            row = PolicyRow(
                trace=trace.name,
                cv2=trace.cv2,
                contention=each.name,
                policy="oracle",
                offered=offered,
                effective_accuracy=best,
                of_oracle=1.0,
                attainment=math.nan,
                mean_accuracy=math.nan,
                misses=0,
                levels=(),
            )
            rows.append(row)
    return rows


def figures(rows: Sequence[PolicyRow], policy: str = ELASTIC) -> Figures:
    """The figures of `policy`. Rows of every fixed level and of SlackFit must be there, and some contention."""
    places: dict[tuple[str, str], dict[str, PolicyRow]] = {}
    for row in rows:
        places.setdefault((row.trace, row.contention), {})[row.policy] = row
    fixed_gains, slackfit_gains, misses, fixed_misses = [], [], 0.0, 0.0
    of_oracle: dict[str, float] = {}
    contended: dict[str, list[float]] = {}
    for (trace, disturbed), by_policy in places.items():
        own = by_policy[policy]
        fixed = [row for name, row in by_policy.items() if name.startswith(FIXED)]
        fixed_gains.append(own.effective_accuracy - max(row.effective_accuracy for row in fixed))
        if disturbed == contention.UNDISTURBED:
            of_oracle[trace] = own.of_oracle
        else:
            contended.setdefault(trace, []).append(own.of_oracle)
            slackfit_gains.append(own.effective_accuracy - by_policy[SLACKFIT].effective_accuracy)
        if own.cv2 > 1.5:
            misses += own.misses
            fixed_misses += _misses_at(own.mean_accuracy, fixed)
    return Figures(
        least_fixed_gain=min(fixed_gains),
        mean_fixed_gain=float(np.mean(fixed_gains)),
        least_slackfit_gain=min(slackfit_gains),
        mean_slackfit_gain=float(np.mean(slackfit_gains)),
        of_oracle=of_oracle,
        contended_of_oracle={trace: float(np.mean(shares)) for trace, shares in contended.items()},
        fixed_misses=fixed_misses / misses if misses else math.inf,
    )


def _misses_at(mean_accuracy: float, fixed: Sequence[PolicyRow]) -> float:
    """The misses at this mean accuracy, on the line through the fixed levels."""
    known = sorted((row.mean_accuracy, row.misses) for row in fixed if not math.isnan(row.mean_accuracy))
    return float(np.interp(mean_accuracy, [accuracy for accuracy, _ in known], [misses for _, misses in known]))
