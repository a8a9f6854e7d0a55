"""Arrivals: what follows an arrival, by its definition."""

from __future__ import annotations

import numpy as np
import pytest

from nested_sparse.runtime.arrivals import Arrivals


def seen(times_s: np.ndarray, budget_ms: float, samples: int = 1) -> Arrivals:
    arrivals = Arrivals()
    for time_s in times_s:
        arrivals.note(samples, budget_ms, float(time_s))
    return arrivals


def test_nothing_is_known_at_first() -> None:
    """Neither load nor pace."""
    arrivals = Arrivals()
    assert not arrivals.known
    assert not arrivals.regular


@pytest.mark.parametrize("squared_variation", [1.0, 4.0])
def test_following_is_the_mean_count_that_an_arrival_sees(squared_variation: float) -> None:
    """Against a count over all arrivals; in clumps it is more than the rate times the horizon."""
    generator = np.random.default_rng(3)
    times_s = np.cumsum(generator.gamma(1 / squared_variation, squared_variation / 50.0, 4000))
    counts = np.searchsorted(times_s, times_s + 0.1, side="right") - np.arange(len(times_s)) - 1
    estimates = []
    arrivals = Arrivals()
    for time_s in times_s:
        arrivals.note(1, 100.0, float(time_s))
        estimates.append(arrivals.following)
    assert np.mean(estimates[500:]) == pytest.approx(np.mean(counts[:-50]), rel=0.1)
    assert (np.mean(counts) > 6) == (squared_variation > 1)
    assert not arrivals.regular


def test_an_even_pace_is_regular_and_its_interval_is_known() -> None:
    """A camera at 30 images a second, and what one batch of 4 is followed by in 100 ms."""
    arrivals = seen(np.arange(200) / 30, 110.0, samples=4)
    assert arrivals.regular
    assert arrivals.interval_ms == pytest.approx(1000 / 30)
    assert arrivals.batch == pytest.approx(4.0)
    assert arrivals.horizon_ms == pytest.approx(110.0)
    assert arrivals.following == pytest.approx(12.0)


def test_a_pause_lets_the_past_go() -> None:
    """After a busy minute and half a minute of silence, two single requests are what it knows."""
    arrivals = seen(np.concatenate([np.arange(6000) / 100, [90.0, 120.0, 150.0]]), 100.0)
    assert arrivals.following < 0.1
