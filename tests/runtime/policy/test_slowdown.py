"""Slowdown: the factor learned from measured times, with its scatter, outliers and decay."""

from __future__ import annotations

import math

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from nested_sparse.runtime.policy.slowdown import MAXIMUM, MINIMUM, Slowdown


def feed(slowdown: Slowdown, ratios: list[float], start_s: float = 0.0, step_s: float = 0.02) -> float:
    now_s = start_s
    for ratio in ratios:
        now_s += step_s
        slowdown.observe(10.0 * ratio, 10.0, now_s)
    return now_s


def test_factor_is_one_before_anything_was_measured() -> None:
    """Without samples the profile is believed."""
    assert Slowdown().factor(5.0) == 1.0


def test_steady_ratio_is_learned() -> None:
    """A constant ratio ends as the factor, the deviation gone."""
    slowdown = Slowdown()
    now_s = feed(slowdown, [1.7] * 60)
    assert slowdown.factor(now_s) == pytest.approx(1.7, abs=0.01)


def test_factor_lies_above_the_mean_when_times_scatter() -> None:
    """mean + k * deviation: scatter costs headroom."""
    slowdown = Slowdown()
    now_s = feed(slowdown, [0.8, 1.2] * 40)
    assert 1.1 < slowdown.factor(now_s) < 1.6


@pytest.mark.parametrize("outlier", [5.0, 40.0, 1e6])
def test_one_outlier_stays_small_and_goes_away(outlier: float) -> None:
    """One slow request does not send the server to its lowest level."""
    slowdown = Slowdown()
    now_s = feed(slowdown, [1.0] * 20)
    now_s = feed(slowdown, [outlier], now_s)
    assert slowdown.factor(now_s) < 1.75
    assert slowdown.factor(feed(slowdown, [1.0] * 10, now_s)) < 1.1


@pytest.mark.parametrize("ratio", [2.0, 3.0, 10.0, 40.0])
def test_lasting_slowdown_is_seen_by_the_second_request(ratio: float) -> None:
    """A co-runner is predicted in full, and not beyond, after two of its requests and from then on."""
    slowdown = Slowdown()
    now_s = feed(slowdown, [1.0] * 20)
    now_s = feed(slowdown, [ratio], now_s)
    for _ in range(20):
        now_s = feed(slowdown, [ratio], now_s)
        assert ratio * 0.99 <= slowdown.factor(now_s) <= ratio * 1.01


@pytest.mark.parametrize("ratio", [2.0, 4.0, 20.0])
def test_recovers_when_the_corunner_leaves(ratio: float) -> None:
    """Back to the profile after six quick requests, and not after five: those may lie between two slow ones."""
    slowdown = Slowdown()
    now_s = feed(slowdown, [1.0] * 5, feed(slowdown, [ratio] * 50))
    assert slowdown.factor(now_s) > 1.25
    assert slowdown.factor(feed(slowdown, [1.0], now_s)) < 1.02


@pytest.mark.parametrize(("slow", "share"), [(2.0, 0.5), (2.5, 0.3), (4.0, 0.5)])
def test_covers_a_corunner_that_comes_and_goes(slow: float, share: float) -> None:
    """Some quick runs between slow ones do not lower the guard: most slow runs stay under the prediction."""
    rng = np.random.default_rng(3)
    slowdown, now_s, under, count = Slowdown(), 0.0, 0, 0
    for ratio in np.where(rng.random(2000) < share, slow, 1.0) * np.exp(rng.normal(0.0, 0.08, 2000)):
        under += ratio > slowdown.factor(now_s)
        count += 1
        now_s = feed(slowdown, [float(ratio)], now_s)
    assert under / count < 0.5 * share + 0.1


def test_it_says_when_it_began_anew() -> None:
    """After two slow runs in a row, and after six quick ones; at no other."""
    slowdown = Slowdown()
    renewed = []
    for number, ratio in enumerate([1.0] * 3 + [5.0] * 3 + [1.0] * 7):
        slowdown.observe(ratio, 1.0, number / 10)
        renewed.append(slowdown.renewed)
    assert renewed == [0] * 4 + [2] + [0] * 6 + [6, 0]


def test_mean_leaves_the_scatter_out() -> None:
    """The mean, which residuals are measured against, is unbiased and decays as the factor does."""
    slowdown = Slowdown()
    now_s = feed(slowdown, [1.6, 2.4] * 40)
    assert slowdown.mean(now_s) == pytest.approx(2.0, abs=0.25)
    assert slowdown.mean(now_s) < slowdown.factor(now_s)
    assert slowdown.mean(now_s + 1e3) == pytest.approx(1.0)
    assert Slowdown().mean(0.0) == 1.0


def test_decays_to_one_when_idle() -> None:
    """The learned factor decays with the time constant after fresh_s, and not before."""
    slowdown = Slowdown(fresh_s=1.0, forget_s=5.0)
    now_s = feed(slowdown, [3.0] * 60)
    assert slowdown.factor(now_s + 1.0) == pytest.approx(3.0, abs=0.01)
    assert slowdown.factor(now_s + 6.0) == pytest.approx(1 + 2 / math.e, abs=0.01)
    assert slowdown.factor(now_s + 120.0) == pytest.approx(1.0, abs=1e-6)


def test_first_sample_after_idle_is_an_outlier_until_confirmed() -> None:
    """Cold caches after an idle phase do not count as a slow machine."""
    slowdown = Slowdown()
    now_s = feed(slowdown, [3.0] * 30) + 200.0
    assert slowdown.factor(feed(slowdown, [8.0], now_s)) < 1.75


def test_clock_is_used_when_no_time_is_given() -> None:
    """The injected clock stands in for now_s."""
    now_s = 0.0
    slowdown = Slowdown(clock=lambda: now_s)
    for _ in range(50):
        slowdown.observe(20.0, 10.0)
    assert slowdown.factor() == pytest.approx(2.0, abs=0.01)
    now_s = 1e4
    assert slowdown.factor() == pytest.approx(1.0)


@given(st.lists(st.tuples(st.floats(allow_nan=True, allow_infinity=True), st.floats(), st.floats(0, 1e6)), max_size=40))
def test_factor_stays_sane_whatever_is_measured(samples: list[tuple[float, float, float]]) -> None:
    """Never NaN, never out of bounds, not even for nonsense."""
    slowdown = Slowdown()
    for measured_ms, profiled_ms, now_s in samples:
        slowdown.observe(measured_ms, profiled_ms, now_s)
        assert MINIMUM <= slowdown.factor(now_s) <= MAXIMUM
