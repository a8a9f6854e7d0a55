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
ORACLE = "oracle"
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
    misses_of_fixed: misses of the policy / misses of a fixed level of the same mean accuracy (fixed_misses_at), on
    traces of CV² above 1.5, all contentions together; NaN where no fixed level misses anything.
    """

    least_fixed_gain: float
    mean_fixed_gain: float
    least_slackfit_gain: float
    mean_slackfit_gain: float
    of_oracle: dict[str, float]
    contended_of_oracle: dict[str, float]
    misses_of_fixed: float


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
            best = oracle(trace, there)
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
                    of_oracle=summary.effective_accuracy / best.upper if best.upper > 0 else math.nan,
                    attainment=summary.attainment,
                    mean_accuracy=summary.mean_accuracy,
                    misses=summary.misses,
                    levels=summary.levels,
                )
                rows.append(row)
            # the oracle's schedule is not kept: its levels are not known
            row = PolicyRow(
                trace=trace.name,
                cv2=trace.cv2,
                contention=each.name,
                policy=ORACLE,
                offered=offered,
                effective_accuracy=best.upper,
                of_oracle=1.0,
                attainment=best.in_time / max(offered, 1),
                mean_accuracy=best.upper * offered / best.in_time if best.in_time else math.nan,
                misses=offered - best.in_time,
                levels=(),
            )
            rows.append(row)
    return rows


def figures(rows: Sequence[PolicyRow], policy: str = ELASTIC) -> Figures:
    """The figures of `policy`. Rows of every fixed level and of SlackFit must be there, and some contention."""
    places: dict[tuple[str, str], dict[str, PolicyRow]] = {}
    for row in rows:
        places.setdefault((row.trace, row.contention), {})[row.policy] = row
    fixed_gains, slackfit_gains = [], []
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
    return Figures(
        least_fixed_gain=min(fixed_gains),
        mean_fixed_gain=float(np.mean(fixed_gains)),
        least_slackfit_gain=min(slackfit_gains),
        mean_slackfit_gain=float(np.mean(slackfit_gains)),
        of_oracle=of_oracle,
        contended_of_oracle={trace: float(np.mean(shares)) for trace, shares in contended.items()},
        misses_of_fixed=misses_of_fixed([row for row in rows if row.cv2 > 1.5], policy),
    )


def misses_of_fixed(rows: Sequence[PolicyRow], policy: str) -> float:
    """Misses of `policy`, or of the oracle, / misses of a fixed level of the same mean accuracy, all places together.

    NaN where no fixed level misses anything.
    """
    own, fixed = 0.0, 0.0
    for row in rows:
        if row.policy == policy and not math.isnan(row.mean_accuracy):
            place = (row.trace, row.contention)
            levels = [each for each in rows if (each.trace, each.contention) == place and each.policy.startswith(FIXED)]
            known = [(each.mean_accuracy, each.misses) for each in levels if not math.isnan(each.mean_accuracy)]
            if known:
                own += row.misses
                fixed += fixed_misses_at(row.mean_accuracy, *zip(*known, strict=True))
    return own / fixed if fixed else math.nan


def fixed_misses_at(accuracy: float, level_accuracy: Sequence[float], level_misses: Sequence[int]) -> float:
    """Misses of a fixed level of this accuracy, interpolated linearly between the two levels around it.

    Beyond the range they are the outermost level's. A level that another one beats in both is ignored.
    """
    order = np.argsort(level_accuracy, kind="stable")
    best: list[tuple[float, int]] = []
    for place in order[::-1]:  # from the most accurate down: levels that miss less than every more accurate one
        if not best or level_misses[place] < best[-1][1]:
            best.append((level_accuracy[place], level_misses[place]))
    best.reverse()
    return float(np.interp(accuracy, [each for each, _ in best], [missed for _, missed in best]))
