"""Baselines: the properties that define them."""

from __future__ import annotations

import itertools

import pytest

from nested_sparse.errors import InputError
from nested_sparse.runtime.policy.base import LevelPolicy
from nested_sparse.runtime.policy.decision import Waiting
from nested_sparse.runtime.policy.slackfit import SlackFitPolicy
from nested_sparse.runtime.policy.static import StaticPolicy
from nested_sparse.runtime.profiling.profile import LatencyProfile

SINGLE = LatencyProfile((1,), [[2.0], [5.0], [9.0], [14.0]])
# batches pay: eight at once take three times as long as one
BATCHED = LatencyProfile(
    (1, 2, 4, 8), [[ms * (1 + 2 * (b - 1) / 7) for b in (1, 2, 4, 8)] for ms in (2.0, 5.0, 9.0, 14.0)]
)


def waiting(slack_ms: float, lowest: int = 0, highest: int = 3, batch: int = 1) -> Waiting:
    return Waiting(100.0 + slack_ms / 1e3, lowest, highest, batch)


def test_slackfit_buckets_keep_the_largest_batch_then_the_densest_level() -> None:
    """Evenly spaced from the first to the last action; nothing in a bucket has a larger batch, or is denser with it."""
    buckets = SlackFitPolicy(BATCHED, buckets=20).buckets
    edges = [bucket.latency_ms for bucket in buckets]
    assert (edges[0], edges[-1]) == (2.0, pytest.approx(42.0))
    assert {round(b - a, 9) for a, b in itertools.pairwise(edges)} == {round(40.0 / 19, 9)}
    below_ms, kept = 0.0, None
    for bucket in buckets:
        inside = [
            (batch, level)
            for level in range(4)
            for batch in BATCHED.batches
            if below_ms < BATCHED.predict_ms(level, batch) <= bucket.latency_ms + 1e-9
        ]
        kept = max(inside) if inside else kept
        assert (bucket.batch, bucket.level) == kept
        below_ms = bucket.latency_ms + 1e-9


def test_slackfit_takes_the_bucket_below_the_slack_and_pops_its_batch() -> None:
    """Never slower, by the profile, than the slack; as many requests as the bucket holds or the queue has."""
    policy = SlackFitPolicy(BATCHED)
    for tenths in range(20, 600, 7):
        decision = policy.choose(waiting(tenths / 10), [waiting(90.0)] * 20, 100.0)
        assert decision.level is not None
        assert BATCHED.predict_ms(decision.level, decision.take) == decision.predicted_ms <= tenths / 10
        alone = policy.choose(waiting(tenths / 10), [], 100.0)
        assert (alone.level, alone.take) == (decision.level, 1)
    assert policy.choose(waiting(60.0), [waiting(90.0)] * 20, 100.0).take == 8
    assert policy.choose(waiting(60.0), [waiting(90.0)] * 2, 100.0).take == 3


def test_slackfit_without_batches_is_the_densest_level_that_fits() -> None:
    """As its buckets are fine: the level falls with the slack, and is at most a bucket's width too low."""
    policy = SlackFitPolicy(SINGLE, buckets=1201)
    for slack_ms, level in ((2.02, 0), (4.9, 0), (5.02, 1), (8.9, 1), (9.02, 2), (13.9, 2), (14.02, 3), (80.0, 3)):
        assert policy.choose(waiting(slack_ms), [], 100.0).level == level


def test_slackfit_neither_senses_nor_sheds() -> None:
    """Ten times slower than the profile it decides as before; a hopeless request runs, at the lowest level."""
    policy: LevelPolicy = SlackFitPolicy(SINGLE)
    before = policy.choose(waiting(20.0), [], 100.0)
    for _ in range(50):
        policy.observe(3, 1, 140.0, 100.0)
    assert policy.choose(waiting(20.0), [], 100.0) == before
    assert policy.slowdown_factor(100.0) == 1.0
    assert policy.choose(waiting(0.1), [], 100.0).level == 0
    assert policy.admit(waiting(0.1), [waiting(1.0)] * 100, 1e3, 100.0).level is not None


def test_slackfit_keeps_to_the_levels_that_requests_allow() -> None:
    """Levels within the head's range, and no one is taken along at a level it does not allow."""
    policy = SlackFitPolicy(BATCHED)
    assert policy.choose(waiting(2.5, lowest=2), [], 100.0).level == 2
    assert policy.choose(waiting(90.0, highest=1), [], 100.0).level == 1
    picky = policy.choose(waiting(60.0), [waiting(90.0), waiting(90.0, highest=2), waiting(90.0)], 100.0)
    assert (picky.level, picky.take) == (3, 2)
    large = policy.choose(waiting(60.0), [waiting(90.0, batch=6), waiting(90.0, batch=4)], 100.0)
    assert large.take == 2
    with pytest.raises(InputError, match="bucket"):
        SlackFitPolicy(SINGLE, buckets=0)


@pytest.mark.parametrize(
    ("rate_per_s", "slo_ms", "workers", "level"),
    [
        (1.0, 50.0, 1, 3),
        (1.0, 10.0, 1, 2),
        (90.0, 50.0, 1, 2),
        (120.0, 50.0, 1, 1),
        (120.0, 50.0, 2, 3),
        (1e4, 1.0, 1, 0),
    ],
)
def test_static_chooses_once_for_rate_and_slo(rate_per_s: float, slo_ms: float, workers: int, level: int) -> None:
    """The densest that fits the SLO and keeps the workers at most 0.9 busy; whatever comes, that."""
    policy: LevelPolicy = StaticPolicy(SINGLE, rate_per_s=rate_per_s, slo_ms=slo_ms, workers=workers)
    for slack_ms in (1.0, 10.0, 100.0):
        assert policy.choose(waiting(slack_ms), [waiting(slack_ms)] * 9, 100.0).level == level
        policy.observe(level, 1, 500.0, 100.0)
    assert policy.choose(waiting(9.0, lowest=3), [], 100.0).level == 3
    assert policy.choose(waiting(9.0, highest=0), [], 100.0).level == 0
