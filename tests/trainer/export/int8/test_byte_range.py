"""ByteRange: the values that bytes stand for, and the properties of the three ways to choose a range."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from nested_sparse.trainer.export.int8.byte_range import LARGEST, METHODS, OUTSIDE, ByteRange
from nested_sparse.trainer.export.int8.histogram import Histogram


def seen_of(values: NDArray[np.floating]) -> Histogram:
    seen = Histogram()
    seen.add(np.asarray(values, np.float32))
    return seen


def error_of(held: ByteRange, values: NDArray[np.floating]) -> float:
    """Mean square error of values as bytes, by rounding each of them."""
    values = np.asarray(values, np.float64)
    steps = np.clip(np.rint(values / held.scale) + held.zero, 0, LARGEST)
    return float(np.square((steps - held.zero) * held.scale - values).mean())


RNG = np.random.default_rng(5)
SAMPLES = {
    "normal": RNG.standard_normal(20_000),
    "heavy tails": RNG.standard_t(2, 20_000),
    "after ReLU": np.maximum(RNG.standard_normal(20_000), 0),
    "above zero": RNG.uniform(3, 4, 5_000),
    "below zero": -RNG.exponential(size=5_000),
    "one far value": np.append(RNG.standard_normal(20_000), 1000),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", SAMPLES)
def test_a_range_holds_zero_exactly_and_stays_within_the_values(method: str, kind: str) -> None:
    """Zero has a byte, so padding and ReLU lose nothing; no range reaches beyond the values by more than a step."""
    values = SAMPLES[kind].astype(np.float32)
    held = METHODS[method](seen_of(values))
    assert 0 <= held.zero <= LARGEST
    assert held.scale == np.float32(held.scale) > 0
    low, high = held.limits
    assert low <= 0 <= high
    assert low >= min(values.min(), 0) - held.scale
    assert high <= max(values.max(), 0) + held.scale


@pytest.mark.parametrize("kind", SAMPLES)
def test_minmax_covers_all(kind: str) -> None:
    """No value is farther from its byte's than half a step and what the zero's rounding moves."""
    values = SAMPLES[kind].astype(np.float32)
    held = METHODS["minmax"](seen_of(values))
    low, high = held.limits
    assert low - held.scale / 2 * 1.001 <= values.min()
    assert values.max() <= high + held.scale / 2 * 1.001


@pytest.mark.parametrize("kind", SAMPLES)
def test_percentile_leaves_its_share_outside(kind: str) -> None:
    """At most OUTSIDE of the values, and a step more at each end, lie outside."""
    values = SAMPLES[kind].astype(np.float32)
    held = METHODS["percentile"](seen_of(values))
    low, high = held.limits
    outside = (values < low - held.scale / 2 * 1.001).mean() + (values > high + held.scale / 2 * 1.001).mean()
    assert outside <= OUTSIDE


def test_percentile_drops_a_far_value() -> None:
    """One value in twenty thousand does not set the range."""
    seen = seen_of(SAMPLES["one far value"])
    assert METHODS["percentile"](seen).scale < METHODS["minmax"](seen).scale / 100


@pytest.mark.parametrize("kind", SAMPLES)
def test_mse_loses_no_more_than_the_others(kind: str) -> None:
    """By rounding every value, "mse" is at most a little worse anywhere, and better with heavy tails."""
    values = SAMPLES[kind].astype(np.float32)
    seen = seen_of(values)
    errors = {name: error_of(method(seen), values) for name, method in METHODS.items()}
    assert errors["mse"] <= errors["minmax"] * 1.1
    if kind == "heavy tails":
        assert errors["mse"] < min(errors["minmax"], errors["percentile"])


@pytest.mark.parametrize("kind", ["normal", "heavy tails", "after ReLU"])
@pytest.mark.parametrize("method", METHODS)
def test_predicted_noise_is_the_measured_one(kind: str, method: str) -> None:
    """noise() tells from the histogram what rounding all values would show."""
    values = SAMPLES[kind].astype(np.float32)
    seen = seen_of(values)
    held = METHODS[method](seen)
    assert held.noise(seen) == pytest.approx(error_of(held, values), rel=0.15)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("constant", [0.0, 2.5, -2.5, 1e-42, 1e-30, 3e38])
def test_a_constant_has_a_range(method: str, constant: float) -> None:
    """A constant keeps its value to half a step; one whose step is no normal number becomes zero."""
    held = METHODS[method](seen_of(np.full(100, constant)))
    assert np.isfinite(held.scale)
    assert held.scale >= np.finfo(np.float32).tiny
    if abs(constant) > 1e-36:
        assert error_of(held, np.full(1, constant)) <= (held.scale / 2 * 1.001) ** 2
        assert held.scale == pytest.approx(abs(constant) / LARGEST, rel=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_nothing_seen_gives_a_range(method: str) -> None:
    """A tensor without an element has the range of zero."""
    assert METHODS[method](Histogram()) == ByteRange(1.0, 0)


def test_range_of_limits() -> None:
    """Both ends, or one and zero, share 255 steps; what cannot be a scale becomes 1."""
    assert ByteRange.of(-51, 204) == ByteRange(1.0, 51)
    assert ByteRange.of(2, 4) == ByteRange(float(np.float32(4) / np.float32(255)), 0)
    assert ByteRange.of(-4, -2) == ByteRange(float(np.float32(4) / np.float32(255)), 255)
    assert ByteRange.of(0, 0) == ByteRange.of(0, 1e-40) == ByteRange(1.0, 0)
    assert ByteRange.of(-3e38, 3e38).scale == 1.0


def test_widening_keeps_the_zero() -> None:
    """A wider range has the wanted scale as float32; a range that is wide enough is unchanged."""
    held = ByteRange(0.5, 7)
    assert held.widened(0.25) is held
    assert held.widened(0.7) == ByteRange(float(np.float32(0.7)), 7)
