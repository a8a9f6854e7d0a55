"""Rates: figures between two readings."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nested_sparse.serving.top.counts import Counts, Durations, MetricCounts, ModelCounts
from nested_sparse.serving.top.rates import ModelRates, rates_between


def metrics(ok: float, shed: float = 0, cancelled: float = 0, low: float = 0) -> MetricCounts:
    """`low` of the answers at level 0, the rest at level 3, all within 1 to 10 ms."""
    return MetricCounts(
        {"ok": ok, "shed": shed, "cancelled": cancelled},
        {0: low, 3: ok - low},
        Durations(((0.001, 0.0), (0.01, ok), (float("inf"), ok))),
        Durations(((0.001, 0.0), (0.01, ok), (float("inf"), ok))),
        4.0,
        1.5,
    )


BEFORE = ModelCounts("net", answered=100, failed=10, queue_ms=500.0, compute_ms=1000.0, metrics=metrics(100, 10))
AFTER = ModelCounts("net", answered=120, failed=20, queue_ms=700.0, compute_ms=1100.0, metrics=metrics(120, 15, 5, 5))


def between(before: ModelCounts | None, after: ModelCounts, seconds: float = 2.0) -> ModelRates:
    (it,) = rates_between(
        Counts(7.0, "s", "ready", () if before is None else (before,)), Counts(7.0 + seconds, "s", "ready", (after,))
    ).models
    return it


def test_rates_and_means_are_of_the_interval() -> None:
    """Rates, shares and means of the interval, gauges of its end."""
    it = between(BEFORE, AFTER)
    assert it.per_s == 15.0
    assert it.answered_share == pytest.approx(2 / 3)
    assert (it.mean_queue_ms, it.mean_compute_ms) == (10.0, 5.0)
    assert it.in_time_share == pytest.approx(20 / 25)  # cancelled requests do not count as late
    assert it.level_shares == {0: 0.25, 3: 0.75}
    assert it.queue_ms == pytest.approx((5.5, 9.91))
    assert (it.shed, it.expired, it.late, it.queue_length, it.slowdown) == (5, 0, 0, 4, 1.5)


def test_without_metrics_there_are_rates_and_means() -> None:
    """Missing figures are not invented."""
    it = between(replace(BEFORE, metrics=None), replace(AFTER, metrics=None))
    assert (it.per_s, it.mean_queue_ms) == (15.0, 10.0)
    assert [it.in_time_share, it.level_shares, it.queue_ms, it.compute_ms, it.shed, it.slowdown] == [None] * 6


def test_an_interval_without_requests_has_no_shares() -> None:
    """Shares of zero requests are unknown."""
    it = between(AFTER, AFTER)
    assert it.per_s == 0.0
    assert [it.answered_share, it.in_time_share, it.mean_queue_ms, it.queue_ms] == [None] * 4
    assert it.level_shares == {}


@pytest.mark.parametrize("before", [None, AFTER], ids=["new", "restarted"])
def test_a_model_that_began_anew_did_all_it_has_counted(before: ModelCounts | None) -> None:
    """There are no negative rates."""
    it = between(before, BEFORE)
    assert it.per_s == 55.0
    assert (it.shed, it.level_shares) == (10, {3: 1.0})


def test_metrics_of_another_server_tell_the_queue_only() -> None:
    """The metrics are Triton's."""
    it = between(replace(BEFORE, metrics=None), replace(AFTER, metrics=MetricCounts(queue_length=7.0)))
    assert it.queue_length == 7
    assert [it.in_time_share, it.level_shares, it.shed] == [None] * 3
