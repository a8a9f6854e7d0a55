"""Counts: quantiles of histograms, and differences of two readings."""

from __future__ import annotations

import bisect
import math

import hypothesis.strategies as st
import pytest
from hypothesis import given

from nested_sparse.serving.top.counts import Durations

BOUNDS_S = (0.001, 0.01, 0.1, math.inf)


def durations(samples_s: list[float]) -> Durations:
    return Durations(tuple((bound, float(sum(each <= bound for each in samples_s))) for bound in BOUNDS_S))


samples = st.lists(st.floats(0.0, 0.5), min_size=1, max_size=60)


@given(samples, st.floats(0.01, 1.0))
def test_quantile_lies_in_the_bucket_of_the_true_one(samples_s: list[float], share: float) -> None:
    """A quantile beyond the last finite bound is that bound."""
    true_s = sorted(samples_s)[math.ceil(share * len(samples_s) - 1e-9) - 1]
    place = bisect.bisect_left(BOUNDS_S, true_s)
    low_ms = 1e3 * (BOUNDS_S[place - 1] if place else 0.0)
    high_ms = 1e3 * BOUNDS_S[min(place, len(BOUNDS_S) - 2)]
    quantile_ms = durations(samples_s).quantile_ms(share)
    assert quantile_ms is not None
    assert min(low_ms, high_ms) - 1e-9 <= quantile_ms <= high_ms + 1e-9


def test_quantile_is_interpolated() -> None:
    """Half of those between 1 and 10 ms: the middle."""
    assert Durations(((0.001, 0.0), (0.01, 10.0), (math.inf, 10.0))).quantile_ms(0.5) == pytest.approx(5.5)


def test_no_quantile_of_nothing() -> None:
    """Without bounds or without samples, a quantile is unknown."""
    assert Durations().quantile_ms(0.5) is None
    assert durations([]).quantile_ms(0.99) is None


@given(samples, samples)
def test_since_leaves_the_later_counts(before_s: list[float], after_s: list[float]) -> None:
    """The difference of the counts is the count of the later ones."""
    assert durations(before_s + after_s).since(durations(before_s)) == durations(after_s)


def test_since_another_start_is_all() -> None:
    """The earlier counts are of a server that has started again, or has other bounds."""
    now = durations([0.05])
    assert now.since(durations([0.05, 0.05])) == now
    assert now.since(Durations()) == now
