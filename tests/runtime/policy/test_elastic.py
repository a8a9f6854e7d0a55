"""Elastic policy: the level by load, queue, slowdown and arrivals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import hypothesis.strategies as st
import pytest
from hypothesis import given

from nested_sparse.errors import InputError, LevelError
from nested_sparse.runtime.policy.decision import Waiting
from nested_sparse.runtime.policy.elastic import ElasticPolicy
from nested_sparse.runtime.policy.fixed import FixedPolicy
from nested_sparse.runtime.policy.residuals import MAXIMUM, MINIMUM
from nested_sparse.runtime.profiling.profile import LatencyProfile
from nested_sparse.runtime.profiling.size_growth import SizeGrowth
from nested_sparse.runtime.resources import QuotaReading

PROFILE = LatencyProfile((1,), [[2.0], [5.0], [9.0], [14.0]])


def due(slack_ms: float, lowest: int = 0, highest: int = 3, **fields: float) -> Waiting:
    return Waiting(slack_ms / 1e3, lowest, highest, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(("slack_ms", "level"), [(100, 3), (14, 3), (13.9, 2), (8.9, 1), (2, 0), (0.9, None)])
def test_densest_level_that_fits(slack_ms: float, level: int | None) -> None:
    """With nothing behind, the slack alone decides; hopeless is shed."""
    assert ElasticPolicy(PROFILE).choose(due(slack_ms), [], 0.0).level == level


@pytest.mark.parametrize(
    ("behind_ms", "level"), [(25.6, 3), (25.5, 2), (15.6, 2), (15.5, 1), (7.8, 1), (7.7, 0), (3.0, 0), (1.0, 3)]
)
def test_the_queue_behind_must_make_it_at_the_next_level_below(behind_ms: float, level: int) -> None:
    """14 + 9, 9 + 5 and 5 + 2 ms within nine tenths of its time; what could not make it at all counts for nothing."""
    assert ElasticPolicy(PROFILE).choose(due(100.0), [due(behind_ms)], 0.0).level == level


def test_a_queue_shares_the_time_that_there_is() -> None:
    """Ten at once with 60 ms: none below 5 ms; the densest first would leave 2 ms for most of them."""
    policy, now_s, levels = ElasticPolicy(PROFILE), 0.0, []
    queue = [due(60.0)] * 10
    while queue:
        decision = policy.choose(queue.pop(0), queue, now_s)
        assert decision.level is not None
        levels.append(decision.level)
        now_s += PROFILE.predict_ms(decision.level) / 1e3
    assert now_s <= 0.060
    assert min(levels) == 1


def test_long_queue_sends_it_to_the_lowest_level() -> None:
    """20 requests of 2 ms due in 42 ms leave 2 ms."""
    decision = ElasticPolicy(PROFILE).choose(due(41.0), [due(42.0)] * 20, 0.0)
    assert decision.level == 0
    assert "level 1 is too slow for this and the 20 behind" in decision.reason


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


GROWTH = SizeGrowth.of("length", 8, (8, 16, 32), [[2.0, 4.0, 8.0], [5.0, 10, 20], [9.0, 18, 36], [14.0, 28, 56]])
SIZED = LatencyProfile((1, 2, 4), [[ms, ms, 1.2 * ms] for ms in (2.0, 5.0, 9.0, 14.0)], growth=(GROWTH,))


@pytest.mark.parametrize(("length", "level"), [(8, 3), (12, 2), (16, 2), (32, 0), (6, 3)])
def test_a_longer_sequence_gets_a_sparser_level_at_the_same_deadline(length: int, level: int) -> None:
    """Its run takes longer at every level."""
    policy = ElasticPolicy(SIZED)
    decision = policy.choose(replace(due(19.0), sizes=(length,)), [], 0.0)
    assert decision.level == level
    assert decision.predicted_ms == SIZED.predict_ms(level, 1, (length,))


def test_the_queue_behind_counts_with_its_own_sizes() -> None:
    """A long one behind takes the time that a short one would leave."""
    behind = [due(30.0)]
    assert ElasticPolicy(SIZED).choose(due(20.0), behind, 0.0).level == 3
    assert ElasticPolicy(SIZED).choose(due(20.0), [replace(behind[0], sizes=(32,))], 0.0).level < 3


def test_arrivals_count_with_their_mean_sizes() -> None:
    """A level that keeps up with short sequences does not keep up with long ones."""

    def settled(length: int) -> int | None:
        policy = ElasticPolicy(SIZED)
        decision = None
        for step in range(60):
            request = replace(due(200.0 + step * 20.0), sizes=(length,))
            policy.admit(request, [], 0.0, step * 0.02)
            decision = policy.choose(request, [], step * 0.02)
        assert decision is not None
        return decision.level

    assert (settled(8), settled(16), settled(32)) == (3, 2, 0)


def test_only_requests_of_equal_sizes_are_taken_together() -> None:
    """The first that differs ends the batch."""
    request, same, other = due(60.0), due(60.0), replace(due(60.0), sizes=(16,))
    policy = ElasticPolicy(SIZED)
    assert policy.choose(replace(request, sizes=(8,)), [replace(same, sizes=(8,))] * 3, 0.0).take == 4
    assert policy.choose(replace(request, sizes=(8,)), [replace(same, sizes=(8,)), other, other], 0.0).take == 2
    assert policy.choose(replace(request, sizes=(8,)), [other] * 3, 0.0).take == 1


def test_a_tight_request_does_not_hold_back_a_loose_one() -> None:
    """Tight deadlines say nothing about load: requests with time to spare keep the densest level in between."""
    policy = ElasticPolicy(PROFILE)
    levels = [
        policy.choose(due(1e3 * now_s + slack_ms, budget_ms=slack_ms), [], now_s).level
        for now_s, slack_ms in enumerate([6.0, 50.0] * 10)
    ]
    assert levels == [1, 3] * 10


def test_rises_one_level_at_a_time_after_load() -> None:
    """After a full queue: down at once, then a level up every eight decisions."""
    policy = ElasticPolicy(PROFILE, rise_decisions=8)
    policy.choose(due(41.0, budget_ms=50.0), [due(42.0)] * 20, 0.0)
    levels = [policy.choose(due(1e3 * i + 50.0, budget_ms=50.0), [], float(i)).level for i in range(1, 26)]
    assert levels == [0] * 7 + [1] * 8 + [2] * 8 + [3] * 2


def test_regular_arrivals_get_the_level_that_can_be_kept_up() -> None:
    """120 requests a second: level 1 (5 ms) is kept up, level 2 (9 ms) is not, though each would have the time."""
    policy = ElasticPolicy(PROFILE)
    levels = []
    for i in range(1, 400):
        now_s = i / 120
        request = due(1e3 * now_s + 50.0, budget_ms=50.0)
        policy.admit(request, [], 0.0, now_s)
        levels.append(policy.choose(request, [], now_s).level)
    assert set(levels[-300:]) == {1}


def test_a_request_alone_with_ample_time_rises_at_once() -> None:
    """After a burst that ran at level 0: a picture a second need not answer worse for its next ones."""
    for slack_ms, levels in ((20 * 14.0, [3, 3]), (19 * 14.0, [0, 1])):
        policy = ElasticPolicy(PROFILE)
        assert policy.choose(due(41.0), [due(42.0)] * 20, 0.0).level == 0
        assert [policy.choose(due(slack_ms), [], 0.0).level for _ in range(2)] == levels
    assert policy.choose(due(20 * 14.0), [due(2000.0)], 0.0).level == 1  # another waits behind it


def test_regular_arrivals_do_not_rise_to_where_they_would_fall_again() -> None:
    """At 90 % of a worker a level is kept; one below stays below it."""
    for start, expected in ((50.0, 3), (7.0, 2)):
        policy = ElasticPolicy(PROFILE)
        levels = []
        for i in range(200):
            now_s = i * 0.0155
            request = due(1e3 * now_s + 60.0, budget_ms=60.0)
            policy.admit(request, [], 0.0, now_s)
            behind = [due(1e3 * now_s + start)] if i < 60 else []
            levels.append(policy.choose(request, behind, now_s).level)
        assert set(levels[100:]) == {expected}


def test_falls_for_clumps_of_arrivals_before_the_queue_has_grown() -> None:
    """From single requests to clumps of 20, of which 9.5 follow an arrival: 10.5 times 9 ms fit 100, 14 do not."""
    policy = ElasticPolicy(PROFILE)
    first = []
    for begin_s, count in [*((i / 10, 1) for i in range(20)), *((2 + i / 5, 20) for i in range(10))]:
        for i in range(count):
            now_s = begin_s + i * 0.0005
            request = due(1e3 * now_s + 50.0, budget_ms=50.0)
            policy.admit(request, [], 0.0, now_s)
            level = policy.choose(request, [], now_s).level
            if i == 0:
                first.append(level)
    assert first[:20] == [3] * 20
    assert set(first[-5:]) == {2}


def test_a_level_that_scores_no_more_than_a_sparser_one_is_not_chosen() -> None:
    """Level 2 is slower than 1 and no better."""
    policy = ElasticPolicy(PROFILE, accuracy=(0.8, 0.9, 0.9, 0.95))
    assert [policy.choose(due(slack_ms), [], 0.0).level for slack_ms in (10.0, 13.9)] == [1, 1]
    with pytest.raises(InputError, match="one for each of 4 levels, got 1"):
        ElasticPolicy(PROFILE, accuracy=(0.8,))


def test_takes_a_batch_where_that_saves_time_and_the_first_can_wait() -> None:
    """Four together take 8 ms instead of 16; with 7 ms left only three fit."""
    profile = LatencyProfile((1, 2, 4), [[4.0, 5.0, 8.0]])
    policy = ElasticPolicy(profile)
    queue = [due(50.0, highest=0)] * 5
    together = policy.choose(due(20.0, highest=0), queue, 0.0)
    assert (together.take, together.predicted_ms) == (4, 8.0)
    assert policy.choose(due(7.0, highest=0), queue, 0.0).take == 3
    assert ElasticPolicy(PROFILE).choose(due(50.0), [due(90.0)] * 3, 0.0).take == 1


@pytest.mark.parametrize(("lowest", "highest"), [(0, 4), (0, 1.5), (0.5, 1), (-2, 1), (3, 2), (0, True)])
def test_levels_that_the_profile_does_not_have_are_refused(lowest: int, highest: int) -> None:
    """The rule is that of every level: a whole number, in range."""
    with pytest.raises(LevelError, match=r"is out of range|is not a whole number|the request allows no level"):
        ElasticPolicy(PROFILE).choose(due(50.0, lowest, highest), [], 0.0)


def test_the_densest_may_be_called_minus_one() -> None:
    """-1 is the densest level, as in all functions."""
    assert ElasticPolicy(PROFILE).choose(due(50.0, -1, -1), [], 0.0).level == 3


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
    """-1 is the densest level, and 4 does not exist."""
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
            assert lowest_ms * MAXIMUM > slack_ms
            assert decision.retry_after_ms >= 1
            now_s += 0.01
            continue
        assert request.lowest_level <= decision.level <= request.highest_level
        profiled_ms = PROFILE.predict_ms(decision.level, request.batch) * factor
        assert MINIMUM * (1 - 1e-9) <= decision.predicted_ms / profiled_ms <= MAXIMUM * (1 + 1e-9)
        assert decision.level == request.lowest_level or decision.predicted_ms <= slack_ms * (1 + 1e-9)
        now_s += service_ms / 1e3
        policy.observe(decision.level, request.batch, service_ms, now_s)


def stopped(quota_ms: float, period_ms: float) -> tuple[ElasticPolicy, Callable[[float, float], None]]:
    """A policy with a quota that was used up from the beginning of each of eight periods on, so that the runs from 2 ms
    before the stop until 1 ms behind it were stopped. And a function that sets clock and CPU time, in ms."""
    used_ms, stops = 0.0, 0
    policy = ElasticPolicy(PROFILE, quota=lambda: QuotaReading(period_ms, quota_ms, used_ms, stops))

    def at(now_ms: float, since_ms: float) -> None:
        """The group has worked for `since_ms` of the present period."""
        nonlocal used_ms, stops
        stops = int(now_ms // period_ms)
        used_ms = stops * quota_ms + since_ms
        policy.choose(due(now_ms + 1e4), [], now_ms / 1e3)

    for period in range(8):
        begin_ms, end_ms = period * period_ms + quota_ms - 2.0, (period + 1) * period_ms + 1.0
        at(begin_ms, quota_ms - 2.0)
        used_ms, stops = (period + 1) * quota_ms + 1.0, period + 1
        stopped_ms = policy.stopped_ms(begin_ms / 1e3, end_ms / 1e3, 3.0)
        assert stopped_ms == pytest.approx(period_ms - quota_ms, abs=0.1)
    return policy, at


def test_a_standstill_to_come_leaves_less_time() -> None:
    """A quota of 12 in 20 ms: 14 ms would end in the standstill, and a refusal waits for its end."""
    assert ElasticPolicy(PROFILE).choose(due(18.0), [], 0.0).level == 3
    policy, at = stopped(12.0, 20.0)
    at(200.5, 0.5)
    decision = policy.choose(due(200.5 + 18.0), [], 0.2005)
    assert decision.level == 2
    assert "in which the CPU quota stops this process" in decision.reason
    at(213.3, 12.0)
    late = policy.admit(due(213.3 + 5.0), [], 0.0, 0.2133)
    assert late.level is None
    assert late.retry_after_ms == pytest.approx(6.7, abs=0.6)


def test_a_quota_leaves_less_time_from_its_first_reading_on() -> None:
    """No run has been stopped yet: a run of 14 ms would not be in time with 5 of 20 ms."""
    policy = ElasticPolicy(PROFILE, quota=lambda: QuotaReading(20.0, 5.0))
    assert policy.choose(due(30.0), [], 0.0).level != 3


def test_a_standstill_between_two_runs_is_no_gap() -> None:
    """8 ms in which the quota was used up: the next runs are predicted as before, not 8 ms longer."""
    policy, at = stopped(12.0, 20.0)
    at(200.5, 0.5)
    before_ms = policy.choose(due(200.5 + 18.0, lowest=1), [], 0.2005).predicted_ms
    for period in range(11, 61):
        at(20.0 * period - 8.0, 12.0)
        at(20.0 * period + 0.5, 0.5)
        policy.observe_gap(8.5, 0.02 * period + 0.0005)
    decision = policy.choose(due(1200.5 + 18.0, lowest=1), [], 1.2005)
    assert decision.predicted_ms == pytest.approx(before_ms, abs=1.0)


@pytest.mark.parametrize("turn", ["choose", "admit"])
@pytest.mark.parametrize("slack_ms", [10.0, 40.0])
def test_a_refusal_in_a_standstill_hints_at_its_end(slack_ms: float, turn: str) -> None:
    """A quota of 7 in 100 ms: the hint is the time until the refill, in ms of the clock."""
    policy, at = stopped(7.0, 100.0)
    at(850.0, 7.0)
    request, now_s = due(850.0 + slack_ms), 0.850
    decision = policy.choose(request, [], now_s) if turn == "choose" else policy.admit(request, [], 0.0, now_s)
    assert decision.level is None
    assert decision.retry_after_ms == pytest.approx(50.0, abs=2.0)


@pytest.mark.parametrize("turn", ["choose", "admit"])
def test_a_quota_that_is_lifted_refuses_nothing(turn: str) -> None:
    """10 ms of a second, and a request a second half a period later: none runs, and the sensor tells it."""
    reading: list[QuotaReading | None] = [QuotaReading(1000.0, 10.0, 0.0, 0)]
    policy = ElasticPolicy(PROFILE, quota=lambda: reading[0])

    def level(now_s: float) -> int | None:
        request = due(now_s * 1e3 + 100.0)
        decide = policy.choose(request, [], now_s) if turn == "choose" else policy.admit(request, [], 0.0, now_s)
        return decide.level

    policy.choose(due(100.0), [], 0.0)
    reading[0] = QuotaReading(1000.0, 10.0, 10.0, 1)
    assert level(0.5) is None
    reading[0] = None
    assert level(0.6) is not None


def test_a_hint_waits_for_a_room_that_is_long_enough() -> None:
    """A request that needs more than what is left before the standstill, and less than its time, comes after it."""
    policy, at = stopped(7.0, 100.0)
    at(806.0, 6.0)
    decision = policy.admit(due(806.0 + 10.0, lowest=1), [], 0.0, 0.806)
    assert decision.level is None
    assert decision.retry_after_ms == pytest.approx(94.0, abs=2.0)


def test_a_run_that_no_period_has_room_for_waits_for_a_probe() -> None:
    """14 ms in periods that leave 7, for a request that has 20: the refill changes nothing."""
    policy, at = stopped(7.0, 100.0)
    at(850.0, 7.0)
    decision = policy.choose(due(850.0 + 20.0, lowest=3), [], 0.850)
    assert decision.level is None
    assert decision.retry_after_ms == 500.0
