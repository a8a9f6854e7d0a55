"""Hand-overs: a request that waits for a core at each change of thread, and the policy that reckons with it."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from nested_sparse.runtime.policy.elastic import ElasticPolicy
from nested_sparse.runtime.policy.fixed import FixedPolicy
from nested_sparse.runtime.profiling.profile import LatencyProfile
from nested_sparse.runtime.simulation import HandOvers, Trace, World, poisson, simulate
from nested_sparse.runtime.simulation.contention import cpu_corunner, quiet

DURATION_S = 8.0


def test_each_wait_counts_once_and_an_early_answer_waits_for_none() -> None:
    """Two requests of 10 ms: the second one comes while the first runs, so its worker need not wake up."""
    world = World(LatencyProfile((1,), [[10.0]]), (0.9,), slo_ms=1000.0, noise_sigma=0.0, hand_over_ms=2.0, seed=3)
    waits = world.hand_overs(2)
    first, second = simulate(ElasticPolicy, Trace("two", np.array([0.1, 0.105])), world).outcomes
    begin_s = 0.1 + waits.front_s[0] + waits.start_s[0]
    assert first.ended_s == pytest.approx(begin_s + 0.010 + waits.reply_s[0] + waits.client_s[0])
    assert second.ended_s == pytest.approx(begin_s + 0.020 + waits.reply_s[1] + waits.client_s[1])
    assert (first.arrived_s, second.arrived_s) == (0.1, 0.105)


def test_without_hand_overs_nothing_waits() -> None:
    waits = HandOvers.drawn(5, 0.0, 1)
    assert not any(each.any() for each in (waits.front_s, waits.start_s, waits.reply_s, waits.client_s))


@pytest.mark.parametrize("neighbours", [0, 1])
@pytest.mark.parametrize("hand_over_ms", [3.0, 6.0])
@pytest.mark.parametrize("utilisation", [0.4, 0.8])
def test_where_threads_wait_for_cores_nothing_is_worse_than_level_0_alone(
    neighbours: int, hand_over_ms: float, utilisation: float
) -> None:
    """Without the chances of the levels, elastic was up to 15 points worse: it gave the reply's time to the run."""
    contention = cpu_corunner(DURATION_S, 1, ((0.0, 1.0),)) if neighbours else quiet()
    gains = []
    for seed in (0, 1):
        world = World(contention=contention, hand_over_ms=hand_over_ms, seed=seed)
        trace = poisson(utilisation * world.capacity_per_s, DURATION_S, seed)
        elastic = simulate(partial(ElasticPolicy, accuracy=world.accuracy), trace, world)
        lowest = simulate(partial(FixedPolicy, 0), trace, world)
        gains.append(elastic.summary.effective_accuracy - lowest.summary.effective_accuracy)
    assert np.mean(gains) >= -0.005
