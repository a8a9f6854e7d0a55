"""Residuals: beside a slowdown, the level with a wrong profile is corrected, and the other levels stay."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from nested_sparse.runtime.policy.residuals import MAXIMUM, MINIMUM, Residuals
from nested_sparse.runtime.policy.slowdown import Slowdown

LEVEL_MS = (2.0, 5.0, 9.0, 14.0)


class Predictor:
    """The wiring that the class asks for, in virtual time: a run each 20 ms."""

    def __init__(self) -> None:
        self.slowdown = Slowdown()
        self.residuals = Residuals(len(LEVEL_MS))
        self.now_s = 0.0

    def predict(self, level: int) -> float:
        """Expected over profiled time."""
        return self.slowdown.mean(self.now_s) * self.residuals.factor(level, self.now_s)

    def play(self, levels: Iterable[int], ratio_of: Callable[[int], float]) -> None:
        for level in levels:
            self.now_s += 0.02
            profiled_ms, measured_ms = LEVEL_MS[level], LEVEL_MS[level] * ratio_of(level)
            self.residuals.observe(level, measured_ms / (profiled_ms * self.slowdown.mean(self.now_s)), self.now_s)
            known_ms = profiled_ms * self.residuals.factor(level, self.now_s)
            self.slowdown.observe(measured_ms, known_ms, self.now_s)


def test_factor_is_one_before_anything_was_measured() -> None:
    """Without samples the slowdown says it all."""
    assert [Residuals(3).factor(level, 7.0) for level in range(3)] == [1.0] * 3


@given(
    biased=st.integers(0, 3),
    bias=st.floats(0.75, 1.4),
    slowdown=st.floats(1.0, 4.0),
    seed=st.integers(0, 99),
)
@settings(deadline=None, max_examples=40)
def test_a_biased_profile_is_put_right(biased: int, bias: float, slowdown: float, seed: int) -> None:
    """Levels in any order: each prediction converges to the truth, the biased level's too; without, it does not."""
    levels = np.random.default_rng(seed).integers(0, len(LEVEL_MS), 1200)
    predictor = Predictor()
    truth = [slowdown * (bias if level == biased else 1.0) for level in range(len(LEVEL_MS))]
    predictor.play((int(level) for level in levels), truth.__getitem__)
    for level, expected in enumerate(truth):
        assert predictor.predict(level) == pytest.approx(expected, rel=0.06)


@given(seed=st.integers(0, 99), levels=st.lists(st.integers(0, 3), min_size=1, max_size=6))
@settings(deadline=None, max_examples=40)
def test_a_right_profile_stays_right(seed: int, levels: list[int]) -> None:
    """Scatter and co-runners that come and go are the slowdown's business: residuals stay near 1."""
    rng = np.random.default_rng(seed)
    predictor = Predictor()
    for _ in range(10):
        for slowdown in (1.0, 3.0):
            predictor.play(levels * (60 // len(levels)), lambda _, s=slowdown: s * math.exp(rng.normal(0.0, 0.08)))
    for level in levels:
        assert predictor.residuals.factor(level, predictor.now_s) == pytest.approx(1.0, abs=0.1)


def test_a_level_served_alone_is_predicted_too() -> None:
    """The slowdown explains it, whatever it is; the residual has nothing to be relative to."""
    predictor = Predictor()
    predictor.play([2] * 100, lambda _: 1.3)
    assert predictor.residuals.factor(2, predictor.now_s) == 1.0
    assert predictor.predict(2) == pytest.approx(1.3, rel=0.02)


@pytest.mark.parametrize("outlier", [0.01, 5.0, 1e9])
def test_one_outlier_is_hardly_seen(outlier: float) -> None:
    """A quarter, of its weight at most."""
    residuals = Residuals(2)
    for step in range(100):
        residuals.observe(step % 2, 1.0, 1.0)
    residuals.observe(0, outlier, 1.0)
    assert residuals.factor(0, 1.0) == pytest.approx(1.0, abs=0.0126)
    assert residuals.factor(1, 1.0) == pytest.approx(1.0, abs=0.0126)


def test_residuals_stay_within_their_bounds() -> None:
    """Residuals stay within their bounds; the slowdown explains larger deviations."""
    residuals = Residuals(2)
    for step in range(1000):
        residuals.observe(0, 1e3, step * 0.1)
        residuals.observe(1, 1e-3, step * 0.1)
    assert 0.95 * MAXIMUM < residuals.factor(0, 100.0) <= MAXIMUM
    assert MINIMUM <= residuals.factor(1, 100.0) < 1.05 * MINIMUM


def settled(**options: object) -> Residuals:
    """Level 0 is 1.2 times level 1, both served as often, the last time at 0 s."""
    residuals = Residuals(3, **options)  # type: ignore[arg-type]
    for _ in range(400):
        for level, ratio in enumerate((1.2, 1.0)):
            residuals.observe(level, ratio, 0.0)
    return residuals


def test_the_common_factor_of_all_levels_belongs_to_the_slowdown() -> None:
    """Their factors differ by what they differ, around 1; a level that was not served stays at 1."""
    residuals = settled()
    one, other, unserved = (residuals.factor(level, 0.0) for level in range(3))
    assert one * other == pytest.approx(1.0, abs=0.02)
    assert one / other == pytest.approx(1.2, rel=0.1)
    assert unserved == 1.0


def test_decays_to_one_when_idle() -> None:
    """With the time constant, once fresh_s have passed and not before."""
    residuals = settled(fresh_s=1.0, forget_s=5.0)
    known = math.log(residuals.factor(0, 0.0))
    assert known > 0.05
    assert math.log(residuals.factor(0, 1.0)) == pytest.approx(known)
    assert math.log(residuals.factor(0, 6.0)) == pytest.approx(known / math.e)
    assert residuals.factor(0, 1e4) == pytest.approx(1.0)


def test_clock_is_used_when_no_time_is_given() -> None:
    """The injected clock stands in for now_s."""
    now_s = 0.0
    residuals = Residuals(2, clock=lambda: now_s)
    for _ in range(50):
        residuals.observe(0, 1.2)
        residuals.observe(1, 1.0)
    assert residuals.factor(0) > 1.03
    now_s = 1e4
    assert residuals.factor(0) == pytest.approx(1.0)


@given(st.lists(st.tuples(st.integers(0, 2), st.floats(), st.floats(0, 1e6)), max_size=40))
def test_factor_stays_sane_whatever_is_measured(samples: list[tuple[int, float, float]]) -> None:
    """Never NaN, never out of bounds, not even for nonsense or a clock that steps."""
    residuals = Residuals(3)
    for level, ratio, now_s in samples:
        residuals.observe(level, ratio, now_s)
        factors = [residuals.factor(each, now_s) for each in range(3)]
        assert all(MINIMUM * (1 - 1e-12) <= factor <= MAXIMUM * (1 + 1e-12) for factor in factors)
