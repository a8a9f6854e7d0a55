"""Worth: the level of most expected accuracy, against sums by hand."""

from __future__ import annotations

import pytest

from nested_sparse.runtime.policy.arrivals import Arrivals
from nested_sparse.runtime.policy.chances import UNSEEN
from nested_sparse.runtime.policy.decision import Waiting
from nested_sparse.runtime.policy.elastic import ElasticPolicy
from nested_sparse.runtime.policy.forecast import Forecast
from nested_sparse.runtime.policy.worth import Worth
from nested_sparse.runtime.profiling.profile import LatencyProfile

PROFILE = LatencyProfile((1,), [[2.0], [8.0], [16.0]])
LEVELS = (2, 1, 0)


def due(slack_ms: float) -> Waiting:
    return Waiting(slack_ms / 1e3, 0, 2)


def worth(accuracy: list[float] | None, replies_ms: list[float], arrivals: Arrivals | None = None) -> Worth:
    forecast = Forecast(PROFILE)
    for reply_ms in replies_ms:
        forecast.chances.note_reply(reply_ms / UNSEEN, 0.0)
    return Worth(accuracy, forecast, arrivals or Arrivals())


@pytest.mark.parametrize(
    ("accuracy", "level"),
    [
        ([0.80, 0.81, 0.82], 0),  # 0.80, 0.81 x 0.9, 0.82 x 0.6
        ([0.80, 0.90, 0.95], 1),  # 0.80, 0.81, 0.57
        ([0.50, 0.60, 0.99], 2),  # 0.50, 0.54, 0.594
        (None, 0),  # 1, 1.05 x 0.9, 1.1 x 0.6
    ],
)
def test_accuracy_times_chance_decides(accuracy: list[float] | None, level: int) -> None:
    """20 ms left: replies of 3 ms leave 6 of 10 runs of level 2 in time, and 9 of level 1."""
    replies_ms = [3.0] * 6 + [10.0] * 3 + [15.0]
    assert worth(accuracy, replies_ms).best(LEVELS, due(20.0), [], 0.0) == level


def test_with_nothing_uncertain_the_densest_is_best() -> None:
    assert worth([0.80, 0.81, 0.82], []).best(LEVELS, due(20.0), [], 0.0) == 2


def test_those_behind_count() -> None:
    """A run of 16 ms leaves the one behind 6 ms for its 2: with replies of 5 ms it would be late for certain."""
    assert worth([0.80, 0.81, 0.82], [5.0]).best(LEVELS, due(30.0), [], 0.0) == 2
    assert worth([0.80, 0.81, 0.82], [5.0]).best(LEVELS, due(30.0), [due(22.0)], 0.0) == 1


def test_one_behind_counts_by_its_own_lowest_level() -> None:
    """It takes level 2 alone, 16 ms: in time behind level 1, late behind level 2. Its answer is worth 0.99, not 0.2."""
    choosy = Waiting(30 / 1e3, 2, 2)
    assert worth([0.2, 0.5, 0.99], [5.0]).best(LEVELS, due(60.0), [choosy], 0.0) == 1


def test_requests_that_come_meanwhile_count() -> None:
    """One in 10 ms that has 12: it would wait 8 ms for half of a run of level 2, run for 2, and reply in 5."""
    arrivals = Arrivals()
    for number in range(20):
        arrivals.note(1, 12.0, number / 100)
    assert worth([0.80, 0.81, 0.82], [5.0]).best(LEVELS, due(30.0), [], 0.2) == 2
    assert worth([0.80, 0.81, 0.82], [5.0], arrivals).best(LEVELS, due(30.0), [], 0.2) == 1


def test_requests_come_twice_as_fast_in_half_of_the_time() -> None:
    """One in 20 ms that has 24, all in time; where runs take place in half of the time, it is one in 10 that has 12."""
    arrivals = Arrivals()
    for number in range(20):
        arrivals.note(1, 24.0, number / 50)
    weighed = worth([0.80, 0.81, 0.82], [5.0], arrivals)
    assert weighed.best(LEVELS, due(30.0), [], 0.4) == 2
    assert weighed.best(LEVELS, due(30.0), [], 0.4, share=0.5) == 1


def test_a_rise_leaves_room_for_scatter() -> None:
    """Level 2 and a reply take 19.5 of 20 ms: enough to stay there, too much to rise to it."""
    assert worth([0.80, 0.81, 0.82], [3.5]).best(LEVELS, due(20.0), [], 0.0, present=2) == 2
    assert worth([0.80, 0.81, 0.82], [3.5]).best(LEVELS, due(20.0), [], 0.0, present=1) == 1


def test_the_policy_says_why_a_level_is_left() -> None:
    """Level 2 fits by prediction; replies take the time that it leaves."""
    policy = ElasticPolicy(PROFILE, accuracy=[0.80, 0.90, 0.92])
    assert policy.choose(due(20.0), [], 0.0).level == 2
    for _ in range(10):
        policy.observe_reply(4.0, 0.0)
    decision = policy.choose(due(20.0), [], 0.0)
    assert decision.level == 1
    assert "level 2 would make too many late" in decision.reason
