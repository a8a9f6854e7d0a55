from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given

from nested_sparse.errors import LevelError
from nested_sparse.runtime.forecast import Waiting
from nested_sparse.runtime.policy import ElasticPolicy, FixedPolicy
from nested_sparse.runtime.profile import LatencyProfile

PROFILE = LatencyProfile((1,), [[2.0], [5.0], [9.0], [14.0]])


def due(slack_ms: float, lowest: int = 0, highest: int = 3, **fields: float) -> Waiting:
    return Waiting(slack_ms / 1e3, lowest, highest, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(("slack_ms", "level"), [(100, 3), (14, 3), (13.9, 2), (8.9, 1), (2, 0), (0.9, None)])
def test_densest_level_that_fits(slack_ms: float, level: int | None) -> None:
    """With nothing behind, the slack alone decides; hopeless is shed."""
    assert ElasticPolicy(PROFILE).choose(due(slack_ms), [], 0.0).level == level


@pytest.mark.parametrize(
    ("behind_ms", "level"), [(16.0, 3), (15.9, 2), (7.0, 1), (6.9, 0), (4.0, 0), (3.0, 0), (1.0, 3)]
)
def test_queue_behind_must_stay_feasible(behind_ms: float, level: int) -> None:
    """What is behind needs 2 ms at its lowest level; once it cannot be saved by that, nor by any, see the contract."""
    assert ElasticPolicy(PROFILE).choose(due(100.0), [due(behind_ms)], 0.0).level == level


def test_long_queue_sends_it_to_the_lowest_level() -> None:
    """20 requests of 2 ms due in 42 ms leave 2 ms."""
    decision = ElasticPolicy(PROFILE).choose(due(41.0), [due(42.0)] * 20, 0.0)
    assert decision.level == 0
    assert "queue behind leaves 2.0 ms" in decision.reason


def test_infeasible_queue_runs_the_lowest_level() -> None:
    """When not even the lowest level saves the queue, the lowest is the least damage."""
    assert ElasticPolicy(PROFILE).choose(due(30.0), [due(30.0)] * 40, 0.0).level == 0


def test_slowdown_lowers_the_level() -> None:
    """At 3 times the profiled time, 20 ms are enough for level 1 only."""
    policy = ElasticPolicy(PROFILE)
    for i in range(50):
        policy.observe(0, 1, 6.0, i * 0.01)
    decision = policy.choose(due(520.0, budget_ms=20.0), [], 0.5)
    assert policy.slowdown_factor(0.5) == pytest.approx(3.0, rel=0.01)
    assert decision.level == 1
    assert decision.predicted_ms == pytest.approx(15.0, rel=0.01)


def test_a_tight_request_does_not_hold_back_a_loose_one() -> None:
    """Tight deadlines say nothing about load: requests with time to spare keep the densest level in between."""
    policy = ElasticPolicy(PROFILE)
    levels = [
        policy.choose(due(1e3 * now_s + slack_ms, budget_ms=slack_ms), [], now_s).level
        for now_s, slack_ms in enumerate([6.0, 50.0] * 10)
    ]
    assert levels == [1, 3] * 10


def test_rises_slowly_after_load() -> None:
    """After a full queue: down at once, then a level up every eight decisions."""
    policy = ElasticPolicy(PROFILE, rise_decisions=8, rise_s=1e9)
    policy.choose(due(41.0, budget_ms=50.0), [due(42.0)] * 20, 0.0)
    levels = [policy.choose(due(1e3 * i + 50.0, budget_ms=50.0), [], float(i)).level for i in range(1, 26)]
    assert levels == [0] * 7 + [1] * 8 + [2] * 8 + [3] * 2


def test_does_not_rise_to_what_the_arrivals_forbid() -> None:
    """120 requests a second: level 1 (5 ms) is kept up, level 2 (9 ms) is not, though each would have the time."""
    policy = ElasticPolicy(PROFILE)
    policy.choose(due(41.0, budget_ms=50.0), [due(42.0)] * 20, 0.0)
    levels = []
    for i in range(1, 400):
        now_s = i / 120
        request = due(1e3 * now_s + 50.0, budget_ms=50.0)
        policy.admit(request, [], 0.0, now_s)
        levels.append(policy.choose(request, [], now_s).level)
    assert set(levels[-100:]) == {1}


def test_falls_to_what_the_rate_of_arrival_allows_before_the_queue_has_grown() -> None:
    """From 10 to 300 requests a second with an empty queue each time: level 0 (2 ms) within the window of a second."""
    policy = ElasticPolicy(PROFILE)
    levels = []
    for now_s in [*(i / 10 for i in range(20)), *(2 + i / 300 for i in range(300))]:
        request = due(1e3 * now_s + 50.0, budget_ms=50.0)
        policy.admit(request, [], 0.0, now_s)
        levels.append(policy.choose(request, [], now_s).level)
    assert levels[:20] == [3] * 20
    assert levels == sorted(levels, reverse=True)
    assert levels[-1] == 0


def test_levels_beyond_the_profile_are_refused() -> None:
    """A policy with another model's profile says so."""
    with pytest.raises(LevelError, match="the profile has 0 to 3"):
        ElasticPolicy(PROFILE).choose(due(50.0, highest=4), [], 0.0)


@pytest.mark.parametrize(("lowest", "highest", "level"), [(0, 3, 2), (3, 3, 3), (0, 1, 1)])
def test_fixed_policy_stays_within_what_the_request_allows(lowest: int, highest: int, level: int) -> None:
    """Level 2, unless the request forbids it."""
    assert FixedPolicy(2, PROFILE).choose(due(50.0, lowest, highest), [due(5.0)] * 9, 0.0).level == level


def test_fixed_policy_sheds_only_what_its_level_cannot_finish() -> None:
    """The densest needs 14 ms."""
    policy = FixedPolicy(-1, PROFILE)
    policy.observe(3, 1, 14.0, 0.0)
    assert policy.choose(due(14.0), [], 0.0).level == 3
    shed = policy.choose(due(13.9), [due(50.0)], 0.0)
    assert (shed.level, shed.retry_after_ms) == (None, pytest.approx(14.0))


def test_fixed_policy_needs_a_level_of_the_profile() -> None:
    """As everywhere, -1 is the densest and 4 is none."""
    with pytest.raises(LevelError):
        FixedPolicy(4, PROFILE)


bounds = st.tuples(st.integers(0, 3), st.integers(0, 3)).map(sorted)
requests = st.builds(
    lambda slack, low_high, batch: Waiting(slack, low_high[0], low_high[1], batch, slack * 1e3),
    st.floats(-0.1, 0.3),
    bounds,
    st.integers(1, 4),
)


@given(st.lists(st.tuples(requests, st.lists(requests, max_size=6), st.floats(0.1, 300)), max_size=25))
def test_bounds_and_predictions_hold_whatever_comes(steps: list[tuple[Waiting, list[Waiting], float]]) -> None:
    """Within the request's bounds; above its lowest only if it ends in time; shed only if the lowest cannot."""
    policy = ElasticPolicy(PROFILE)
    now_s = 0.0
    for request, queue, service_ms in steps:
        shifted = Waiting(
            request.deadline_s + now_s, request.lowest_level, request.highest_level, request.batch, request.budget_ms
        )
        queue = [Waiting(each.deadline_s + now_s, each.lowest_level, each.highest_level, each.batch) for each in queue]
        slack_ms = shifted.slack_ms(now_s)
        factor = policy.slowdown_factor(now_s)
        decision = policy.choose(shifted, sorted(queue, key=lambda each: each.deadline_s), now_s)
        lowest_ms = PROFILE.predict_ms(request.lowest_level, request.batch) * factor
        if decision.level is None:
            assert lowest_ms > slack_ms
            assert decision.retry_after_ms >= 1
            now_s += 0.01
            continue
        assert request.lowest_level <= decision.level <= request.highest_level
        assert decision.predicted_ms == pytest.approx(PROFILE.predict_ms(decision.level, request.batch) * factor)
        assert decision.level == request.lowest_level or decision.predicted_ms <= slack_ms * (1 + 1e-9)
        now_s += service_ms / 1e3
        policy.observe(decision.level, request.batch, service_ms, now_s)
