"""QueuePlan: compared with serving the queue in order."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import given

from nested_sparse.runtime.policy.decision import Waiting
from nested_sparse.runtime.policy.plan import QueuePlan
from nested_sparse.runtime.profiling.profile import LatencyProfile

PROFILE = LatencyProfile((1,), [[2.0], [5.0], [9.0]])
waitings = st.builds(
    lambda slack_ms, levels, batch: Waiting(slack_ms / 1e3, min(levels), max(levels), batch),
    st.floats(1, 200),
    st.tuples(st.integers(0, 2), st.integers(0, 2)),
    st.integers(1, 3),
)


def served(request: Waiting, queue: list[Waiting], level: int, behind: int, slowdown: float, share: float) -> bool:
    """Runs them one after the other."""

    def cost_ms(each: Waiting, wanted: int) -> float:
        return slowdown * PROFILE.predict_ms(sorted((each.lowest_level, wanted, each.highest_level))[1], each.batch)

    now_ms = cost_ms(request, level)
    in_time = now_ms <= request.deadline_s * 1e3
    for each in queue:
        if cost_ms(each, 0) > each.deadline_s * 1e3:  # would be shed
            continue
        now_ms += cost_ms(each, behind)
        in_time &= now_ms <= share * each.deadline_s * 1e3
    return in_time


@given(waitings, st.lists(waitings, max_size=10), st.integers(0, 2), st.integers(0, 2), st.floats(0.5, 3))
def test_fits_where_serving_the_queue_would_be_in_time(
    request: Waiting, queue: list[Waiting], level: int, behind: int, slowdown: float
) -> None:
    """The plan agrees with serving any queue in the given order."""
    plan = QueuePlan(request, queue, PROFILE.predict_ms, slowdown=slowdown, most_ms=1e9, now_s=0.0)
    for share in (0.8, 1.0):
        exact = served(request, queue, level, behind, slowdown, share)
        near = served(request, queue, level, behind, slowdown * (1 - 1e-9), share)
        assert plan.fits(level, behind, share) in (exact, near)


def test_a_long_queue_counts_as_a_whole() -> None:
    """Sixty alike, due in 130 ms: 2 ms each is in time, 5 ms each is not, though the first sixteen would be."""
    plan = QueuePlan(
        Waiting(0.13, 0, 2), [Waiting(0.13, 0, 2)] * 60, PROFILE.predict_ms, slowdown=1.0, most_ms=1e9, now_s=0.0
    )
    assert (plan.waiting, plan.samples) == (60, 61)
    assert plan.fits(0, 0, 1.0)
    assert not plan.fits(1, 1, 1.0)


def test_far_deadlines_count_as_near_ones() -> None:
    """A deadline in a minute does not let the queue grow for a minute."""
    far = Waiting(60.0, 0, 2)
    plan = QueuePlan(far, [far] * 9, PROFILE.predict_ms, slowdown=1.0, most_ms=40.0, now_s=0.0)
    assert plan.fits(0, 0, 1.0)
    assert not plan.fits(1, 1, 1.0)
    assert plan.last_slack_ms == 40.0


def test_other_models_requests_take_their_own_time() -> None:
    """6 ms of another model before a deadline in 10: level 0 fits, level 1 does not."""
    plan = QueuePlan(
        Waiting(0.05, 0, 2),
        [Waiting(0.010, 0, 0, foreign_ms=6.0)],
        PROFILE.predict_ms,
        slowdown=1.0,
        most_ms=1e9,
        now_s=0.0,
    )
    assert plan.fits(0, 0, 1.0)
    assert not plan.fits(1, 0, 1.0)
