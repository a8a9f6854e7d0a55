"""Oracle: compared with an exhaustive search that shares none of its code."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import example, given, settings

from nested_sparse.runtime.policy.elastic import ElasticPolicy
from nested_sparse.runtime.policy.fixed import FixedPolicy
from nested_sparse.runtime.profiling.profile import LatencyProfile
from nested_sparse.runtime.rerouting import RouteTable
from nested_sparse.runtime.simulation import Trace, World, oracle, simulate
from nested_sparse.runtime.simulation.contention import RateContention, cpu_corunner, quiet, quota
from nested_sparse.runtime.simulation.traces import gamma

CONTENTIONS = [
    quiet(),
    quota(0.2, 20.0, 40.0, [(0.1, 0.6)]),
    RateContention("slow", [0.0, 0.015, 0.05], [1.0, 0.3, 1.0]),
]


def route_table() -> RouteTable:
    """Routes of three levels and two operators: from 2 to 0 at the first, from 2 to 1 at the second."""
    accuracy = np.full((3, 3, 2), np.nan)
    accuracy[2, 0, 0], accuracy[2, 1, 1] = 0.65, 0.88
    return RouteTable(("a", "b"), np.tile([0.9, 0.5], (3, 1)), accuracy)


ROUNDING_S = 1e-9
"""An end may be this much after the deadline, as in the oracle: the sum of arrival and time limit is rounded."""
ROUTES_MS = {(2, 0, 0): (0.1, 0.9, 0.65), (2, 1, 1): (0.5, 0.5, 0.88)}


def exhaustive(trace: Trace, world: World, largest: int = 1, routes: bool = False) -> float:
    """Effective accuracy: every order, every subset, every way to batch, every level or route."""
    return exhaustive_schedule(trace, world, largest, routes)[0] / len(trace.times_s)


def exhaustive_schedule(trace: Trace, world: World, largest: int = 1, routes: bool = False) -> tuple[float, int]:
    """The highest sum of scores, and the requests in time of a schedule that has it."""
    times_s, noise = trace.times_s, world.noise(len(trace.times_s))

    def ways(batch: int) -> Sequence[tuple[float, float]]:
        profile = world.profile
        known = [(profile.predict_ms(level, batch), world.accuracy[level]) for level in range(profile.level_count)]
        if routes:
            known += [
                (profile.predict_ms(start, batch) * before + profile.predict_ms(end, batch) * after, score)
                for (start, end, _), (before, after, score) in ROUTES_MS.items()
            ]
        return known

    def best(now_s: float, left: frozenset[int]) -> tuple[float, int]:
        highest = (0.0, 0)
        for batch in range(1, largest + 1):
            for members in combinations(sorted(left), batch):
                begin_s = max(now_s, *(times_s[i] for i in members), 0.0)
                for work_ms, score in ways(batch):
                    work_s = work_ms * float(np.mean(noise[list(members)])) / 1e3
                    end_s = float(world.contention.end_s(begin_s, work_s))
                    if all(end_s <= times_s[i] + world.slo_ms / 1e3 + ROUNDING_S for i in members):
                        rest, in_time = best(end_s, left - set(members))
                        highest = max(highest, (batch * score + rest, batch + in_time))
        return highest

    return best(0.0, frozenset(range(len(times_s))))


arrivals = st.lists(st.integers(0, 60).map(lambda ms: ms / 1e3), min_size=1, max_size=5).map(
    lambda times: Trace("tiny", np.array(sorted(times)))
)


@settings(max_examples=40, deadline=None)
@given(arrivals, st.sampled_from(CONTENTIONS), st.floats(4.0, 40.0), st.integers(0, 99))
def test_no_schedule_is_better(trace: Trace, contention: RateContention, slo_ms: float, seed: int) -> None:
    """Five requests, three levels, noise of 30 %: the same as trying everything."""
    world = World(LatencyProfile((1,), [[3.0], [7.0], [13.0]]), (0.7, 0.8, 0.9), slo_ms, contention, 0.3, seed)
    bound = oracle(trace, world)
    score, in_time = exhaustive_schedule(trace, world)
    assert bound.lower == bound.upper == pytest.approx(score / len(trace.times_s), abs=1e-8)
    assert bound.in_time == in_time  # of five, no other number has the same sum of scores


@settings(max_examples=15, deadline=None)
@given(arrivals.filter(lambda trace: len(trace.times_s) < 5), st.sampled_from(CONTENTIONS), st.floats(4.0, 40.0))
@example(Trace("tiny", np.array([0.059])), CONTENTIONS[1], 11.0)  # a route ends just at the deadline
def test_batches_and_routes_are_ways_to_run(trace: Trace, contention: RateContention, slo_ms: float) -> None:
    """Batches of up to three that pay, any members; and inferences that fall on the way. All requests cost the same."""
    profile = LatencyProfile((1, 3), [[3.0, 5.0], [7.0, 12.0], [13.0, 25.0]])
    world = World(profile, (0.7, 0.8, 0.9), slo_ms, contention, noise_sigma=0.0, routes=route_table())
    bound = oracle(trace, world)
    assert bound.upper == pytest.approx(exhaustive(trace, world, largest=3, routes=True), abs=1e-8)


def test_a_thinned_frontier_bounds_from_both_sides() -> None:
    """Three states at most: the truth is between, and not far."""
    trace, world = gamma(60.0, 6.0, 4.0, seed=5), World(contention=cpu_corunner(6.0))
    exact, rough = oracle(trace, world), oracle(trace, world, frontier=3)
    assert exact.lower == exact.upper
    assert exact.frontier > 3
    assert rough.lower < exact.upper < rough.upper
    assert rough.upper - rough.lower < 0.1
    fine = oracle(trace, world, frontier=20)
    assert rough.lower <= fine.lower <= exact.upper <= fine.upper <= rough.upper


@pytest.mark.parametrize("contention", [quiet(), cpu_corunner(4.0), quota(4.0)], ids=lambda each: each.name)
def test_no_policy_is_better(contention: RateContention) -> None:
    """Without a reply margin, on bursts."""
    trace, world = gamma(60.0, 4.0, 4.0, seed=6), World(contention=contention, noise_sigma=0.2)
    upper = oracle(trace, world).upper
    for policy in (ElasticPolicy, lambda profile: FixedPolicy(0, profile), lambda profile: FixedPolicy(2, profile)):
        scored = simulate(policy, trace, world, reply_margin_ms=-0.08 * world.slo_ms).summary.effective_accuracy
        assert 0.1 < scored <= upper


def test_scores_of_no_request_one_request_and_impossible_requests() -> None:
    """No requests score 0; one that fits scores the densest level; none fit, 0."""
    assert oracle(Trace("empty", np.empty(0)), World()).upper == 0.0
    one = Trace("one", np.array([0.5]))
    assert oracle(one, World(noise_sigma=0.0)).upper == pytest.approx(0.885)
    assert oracle(one, World(noise_sigma=0.0, slo_ms=2.0)).upper == 0.0
    assert oracle(one, World(noise_sigma=0.0, slo_ms=2.4)).upper == pytest.approx(0.755)
