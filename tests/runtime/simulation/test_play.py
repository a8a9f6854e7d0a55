"""Play: simulations of the real scheduler, with outcomes, summary and comparison."""

from __future__ import annotations

import math

import numpy as np
import pytest

from nested_sparse.errors import InputError
from nested_sparse.runtime.policy.elastic import ElasticPolicy
from nested_sparse.runtime.policy.fixed import FixedPolicy
from nested_sparse.runtime.policy.slackfit import SlackFitPolicy
from nested_sparse.runtime.profiling.profile import LatencyProfile
from nested_sparse.runtime.simulation import Trace, World, fixed_misses_at, simulate
from nested_sparse.runtime.simulation.comparison import (
    PolicyRow,
    compare,
    default_contentions,
    default_policies,
    default_traces,
    figures,
)
from nested_sparse.runtime.simulation.contention import RateContention
from nested_sparse.runtime.simulation.traces import gamma, poisson
from support import DATA

EXACT = World(LatencyProfile((1,), [[2.0], [10.0]]), (0.5, 0.9), slo_ms=50.0, noise_sigma=0.0)
ARRIVALS = DATA / "arrivals/azure_llm_conv.npz"


def test_outcomes_by_hand() -> None:
    """Six at once, 50 ms each, of which the reply margin leaves 44; the slack alone picks the level."""
    trace = Trace("six", np.array([0.1] * 6))
    simulation = simulate(lambda profile: SlackFitPolicy(profile, buckets=1000), trace, EXACT)
    ends_ms = [round((outcome.ended_s - 0.1) * 1e3, 6) for outcome in simulation.outcomes]
    # slack when each begins: 44, 34, 24, 14, 4 and 2 ms
    assert ends_ms == [10.0, 20.0, 30.0, 40.0, 42.0, 44.0]
    assert [outcome.level for outcome in simulation.outcomes] == [1, 1, 1, 1, 0, 0]
    assert all(outcome.in_time for outcome in simulation.outcomes)
    assert simulation.summary.effective_accuracy == pytest.approx((4 * 0.9 + 2 * 0.5) / 6)
    assert simulation.summary.levels == (2, 4)


def test_every_offered_request_counts() -> None:
    """Five times slower from the start: some late, some expired; what is not in time scores nothing."""
    slow = World(EXACT.profile, EXACT.accuracy, 50.0, RateContention("slow", [0.0], [0.2]), 0.0)
    trace = Trace("eight", np.arange(8) * 0.02)
    simulation = simulate(SlackFitPolicy, trace, slow)
    summary, outcomes = simulation.summary, simulation.outcomes
    assert (summary.offered, summary.late + summary.expired + summary.shed) == (8, summary.misses)
    assert summary.late > 0
    assert summary.expired > 0
    assert summary.attainment == 1 - summary.misses / 8
    for outcome in outcomes:
        assert outcome.in_time + outcome.late + outcome.shed + outcome.expired == 1
        assert outcome.in_time == (outcome.level is not None and outcome.ended_s - outcome.arrived_s <= 0.05)
    total = sum(EXACT.accuracy[outcome.level or 0] for outcome in outcomes if outcome.in_time)
    assert summary.effective_accuracy == pytest.approx(total / 8)


def test_no_request_in_time() -> None:
    """Nothing scored, no mean."""
    tight = World(EXACT.profile, EXACT.accuracy, 3.0, noise_sigma=0.0)
    summary = simulate(ElasticPolicy, Trace("one", np.array([0.0])), tight).summary
    assert (summary.effective_accuracy, summary.attainment, summary.misses) == (0.0, 0.0, 1)
    assert math.isnan(summary.mean_accuracy)


def test_noise_belongs_to_the_request() -> None:
    """The same under any policy, so that policies and the oracle are compared on the same world."""
    trace, world = poisson(5.0, 4.0, seed=3), World(noise_sigma=0.3)
    took = {}
    for level in (0, 3):
        simulation = simulate(lambda profile, level=level: FixedPolicy(level, profile), trace, world)  # type: ignore[misc]
        took[level] = {run.requests[0]: run.ended_s - run.started_s for run in simulation.session.runs}
    both = took[0].keys() & took[3].keys()
    ratios = [took[3][number] / took[0][number] for number in both]
    assert ratios == pytest.approx([13.9 / 2.4] * len(ratios))
    assert np.std([took[0][number] for number in both]) > 0.1 * 2.4e-3


def test_simulations_repeat() -> None:
    """Equal arguments give equal outcomes, to the last digit."""
    trace, world = gamma(60.0, 3.0, 4.0, seed=2), World(contention=default_contentions(3.0)[1])
    one, two = (simulate(ElasticPolicy, trace, world) for _ in range(2))
    assert one.session.runs == two.session.runs
    assert one.summary == two.summary


def test_rows_of_a_comparison() -> None:
    """One for each policy and the oracle; none above it; rates as promised."""
    world = World()
    traces = default_traces(world, 4.0)
    assert [trace.name for trace in traces] == ["poisson", "gamma 2", "gamma 4", "gamma 8", "ramp"]
    policies = default_policies(world)
    rows = compare(
        traces[2:3], default_contentions(4.0)[:2], default_policies, world, reply_margin_ms=-0.08 * world.slo_ms
    )
    assert [row.policy for row in rows] == [*policies, "oracle"] * 2
    for row in rows:
        assert row.offered == len(traces[2].times_s)
        assert 0.0 < row.of_oracle <= 1.0
        assert row.attainment * row.offered == pytest.approx(row.offered - row.misses)
        assert row.effective_accuracy == pytest.approx(row.attainment * row.mean_accuracy)
    summed = figures(rows)
    assert summed.least_fixed_gain <= summed.mean_fixed_gain
    assert summed.of_oracle.keys() == summed.contended_of_oracle.keys() == {"gamma 4"}


def test_default_traces_have_the_mean_load() -> None:
    """0.7 of what the densest level could do; within 5 standard deviations."""
    world = World()
    for trace in default_traces(world, 200.0):
        expected = 0.7 * world.capacity_per_s * 200.0
        assert abs(len(trace.times_s) - expected) < 5 * math.sqrt(max(trace.cv2, 1.0) * expected)


@pytest.mark.skipif(not ARRIVALS.exists(), reason="the recorded arrivals are not part of the repository")
def test_recorded_arrivals_are_played() -> None:
    """A trace from a file comes last, at the same mean rate."""
    world = World()
    trace = default_traces(world, 5.0, file=ARRIVALS)[-1]
    assert trace.name == "azure_llm_conv"
    summary = simulate(ElasticPolicy, trace, world).summary
    assert summary.offered == round(0.7 * world.capacity_per_s * 5.0)
    assert summary.attainment > 0.9


def test_figures_by_hand() -> None:
    """Two fixed levels, one trace, with and without contention."""

    def row(policy: str, contention: str, effective: float, accuracy: float, misses: int) -> PolicyRow:
        return PolicyRow(
            trace="t",
            cv2=4.0,
            contention=contention,
            policy=policy,
            offered=100,
            effective_accuracy=effective,
            of_oracle=effective / 0.9,
            attainment=0.0,
            mean_accuracy=accuracy,
            misses=misses,
            levels=(),
        )

    rows = [
        row("elastic", "none", 0.80, 0.85, 5),
        row("fixed 0", "none", 0.70, 0.70, 0),
        row("fixed 1", "none", 0.60, 0.90, 40),
        row("slackfit", "none", 0.99, 0.85, 5),
        row("elastic", "cpu", 0.60, 0.80, 5),
        row("fixed 0", "cpu", 0.65, 0.70, 2),
        row("fixed 1", "cpu", 0.40, 0.90, 60),
        row("slackfit", "cpu", 0.50, 0.85, 5),
    ]
    summed = figures(rows)
    assert summed.least_fixed_gain == pytest.approx(-0.05)
    assert summed.mean_fixed_gain == pytest.approx(0.025)
    assert summed.least_slackfit_gain == summed.mean_slackfit_gain == pytest.approx(0.10)
    assert summed.of_oracle == {"t": pytest.approx(0.8 / 0.9)}
    assert summed.contended_of_oracle == {"t": pytest.approx(0.6 / 0.9)}
    assert summed.misses_of_fixed == pytest.approx(10 / (30 + 31))


def test_fixed_misses_are_interpolated_between_the_levels_around() -> None:
    """Half way between two levels: the mean of their misses; beyond the range the outermost; beaten levels no help."""
    assert fixed_misses_at(0.7, [0.6, 0.8], [10, 50]) == pytest.approx(30.0)
    assert fixed_misses_at(0.5, [0.6, 0.8], [10, 50]) == 10.0
    assert fixed_misses_at(0.9, [0.6, 0.8], [10, 50]) == 50.0
    assert fixed_misses_at(0.7, [0.6, 0.65, 0.8], [20, 90, 40]) == pytest.approx(30.0)
    assert fixed_misses_at(0.6, [0.6, 0.8], [40, 20]) == 20.0


def test_interpolated_misses_never_rise_when_a_level_gets_better() -> None:
    """Property: a fixed level with fewer misses cannot make the fixed side look worse."""
    rng = np.random.default_rng(0)
    for _ in range(200):
        accuracy, misses = np.sort(rng.random(4)).tolist(), rng.integers(0, 100, 4).tolist()
        at = float(rng.random())
        better = [max(0, count - int(rng.integers(0, 5))) for count in misses]
        assert fixed_misses_at(at, accuracy, better) <= fixed_misses_at(at, accuracy, misses) + 1e-9


def test_a_world_must_fit() -> None:
    """Accuracies for each level, a time that can be met."""
    with pytest.raises(InputError, match="accuracies"):
        World(accuracy=(0.5, 0.9))
    with pytest.raises(InputError, match="slo_ms"):
        World(slo_ms=0.0)
