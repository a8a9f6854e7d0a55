"""Traces: arrivals by seed and rate, and traces read from files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from nested_sparse.errors import InputError
from nested_sparse.runtime.simulation.traces import Trace, arrivals_of, gamma, poisson, ramp


@pytest.mark.parametrize("cv2", [1.0, 2.0, 4.0, 8.0])
def test_gamma_has_the_rate_and_the_burstiness_asked_for(cv2: float) -> None:
    """Over 40000 arrivals; the mean's standard error is sqrt(cv2 / 40000)."""
    trace = gamma(200.0, 200.0, cv2, seed=1) if cv2 > 1 else poisson(200.0, 200.0, seed=1)
    assert len(trace.times_s) == pytest.approx(40000, rel=5 * (cv2 / 40000) ** 0.5)
    assert trace.cv2 == pytest.approx(cv2, rel=0.15)
    assert trace.times_s[-1] < 200.0


def test_base_keeps_the_rate_and_calms() -> None:
    """Half of it evenly spaced: the same rate, less bursty, and never a gap longer than the base's."""
    trace = gamma(100.0, 100.0, 8.0, seed=2, base_share=0.5)
    assert len(trace.times_s) == pytest.approx(10000, rel=0.1)
    assert trace.cv2 < gamma(100.0, 100.0, 8.0, seed=2).cv2
    assert np.diff(trace.times_s).max() <= 0.02 + 1e-9


@pytest.mark.parametrize(("first", "last"), [(10.0, 190.0), (190.0, 10.0)])
def test_ramp_is_linear_in_its_rate(first: float, last: float) -> None:
    """Arrivals in each tenth of the time against the integral of the rate, within 5 standard deviations."""
    trace = ramp(first, last, 100.0, seed=4)
    counts, edges = np.histogram(trace.times_s, bins=10, range=(0.0, 100.0))
    middles = (edges[1:] + edges[:-1]) / 2
    expected = 10.0 * (first + (last - first) * middles / 100.0)
    assert (np.abs(counts - expected) <= 5 * np.sqrt(expected)).all()


def test_seeds_repeat_and_differ() -> None:
    """The same seed gives the same trace."""
    one, same, other = (gamma(50.0, 10.0, 4.0, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.times_s, same.times_s)
    assert len(one.times_s) != len(other.times_s) or (one.times_s != other.times_s).any()


def test_recorded_arrivals_keep_their_shape(tmp_path: Path) -> None:
    """The first arrivals, as many as asked for; gaps in the file's proportions; the mean rate as asked."""
    arrival_us = np.cumsum([7, 100, 300, 50, 50, 500, 20, 80, 10])
    np.savez(tmp_path / "recorded.npz", arrival_us=arrival_us)
    trace = arrivals_of(tmp_path / "recorded.npz", rate_per_s=3.0, duration_s=2.0)
    assert (trace.name, len(trace.times_s), trace.times_s[0]) == ("recorded", 6, 0.0)
    np.testing.assert_allclose(np.diff(trace.times_s) / 2.0, np.array([100, 300, 50, 50, 500]) / 1020)


def test_bad_files_are_named(tmp_path: Path) -> None:
    """Missing, without the array, and too short."""
    with pytest.raises(InputError, match=r"none\.npz"):
        arrivals_of(tmp_path / "none.npz", 1.0, 1.0)
    np.savez(tmp_path / "other.npz", times=np.arange(5))
    with pytest.raises(InputError, match="arrival_us"):
        arrivals_of(tmp_path / "other.npz", 1.0, 1.0)
    np.savez(tmp_path / "short.npz", arrival_us=np.arange(5))
    with pytest.raises(InputError, match="lower the rate or the duration"):
        arrivals_of(tmp_path / "short.npz", 5.0, 1.0)


@pytest.mark.parametrize("times_s", [[1.0, 0.5], [-1.0], [np.nan], [[1.0]]])
def test_a_trace_is_in_order(times_s: list[float]) -> None:
    """Falling, negative, not a number, not a list."""
    with pytest.raises(InputError, match="trace 'bad'"):
        Trace("bad", np.array(times_s))
