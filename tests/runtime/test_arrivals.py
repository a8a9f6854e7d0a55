"""Arrivals: the utilisation a level would cause, by its definition."""

from __future__ import annotations

import pytest

from nested_sparse.runtime.arrivals import Arrivals


def test_utilisation_is_rate_times_cost() -> None:
    """50 requests a second of 10 ms each keep a worker busy half the time."""
    arrivals = Arrivals(1.0)
    for i in range(200):
        arrivals.note(1, i * 0.02)
    assert arrivals.utilisation(lambda batch: 10.0, 199 * 0.02) == pytest.approx(0.5)


def test_batches_count_with_their_own_cost() -> None:
    """Alternating batches of 1 and 3 at 2 ms per sample, 100 a second: 40 %."""
    arrivals = Arrivals(1.0)
    for i in range(200):
        arrivals.note(1 + 2 * (i % 2), i * 0.01)
    assert arrivals.utilisation(lambda batch: 2.0 * batch, 199 * 0.01) == pytest.approx(0.4, abs=0.01)


def test_a_clump_after_silence_counts_over_the_whole_window() -> None:
    """Three requests at one moment are three requests in this window, not an infinite rate."""
    arrivals = Arrivals(2.0)
    for _ in range(3):
        arrivals.note(1, 5.0)
    assert arrivals.utilisation(lambda batch: 100.0, 5.0) == pytest.approx(0.15)


def test_old_arrivals_are_forgotten() -> None:
    """Beyond the window nothing is known, which is no load."""
    arrivals = Arrivals(1.0)
    for i in range(10):
        arrivals.note(1, i * 0.001)
    assert arrivals.utilisation(lambda batch: 50.0, 0.1) == pytest.approx(0.5)
    assert arrivals.utilisation(lambda batch: 50.0, 1.1) == 0.0
