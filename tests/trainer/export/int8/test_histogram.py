"""Histogram: counts, bounds and power against numpy, whatever the order and the size of the values."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from nested_sparse.trainer.export.int8.histogram import HALF, Histogram


def filled(*parts: NDArray[np.float32]) -> Histogram:
    """A histogram of the parts, added one after the other."""
    seen = Histogram()
    for part in parts:
        seen.add(part)
    return seen


def growing() -> list[NDArray[np.float32]]:
    """Parts of which each is far larger than the one before, with both signs."""
    rng = np.random.default_rng(0)
    return [(rng.standard_normal((3, 50)) * scale).astype(np.float32) for scale in (0.01, 1, 300, 2)]


def test_counts_are_those_of_numpy() -> None:
    """Bins that became one hold what a histogram of this width counts from all values at once."""
    parts = growing()
    seen = filled(*parts)
    values = np.concatenate([part.reshape(-1) for part in parts]).astype(np.float64)
    edges = np.arange(-HALF, HALF + 1) * seen.width
    np.testing.assert_array_equal(seen.counts, np.histogram(values, edges)[0])
    np.testing.assert_allclose(seen.centres(), (edges[1:] + edges[:-1]) / 2, rtol=1e-12)


def test_bounds_number_and_power_are_exact() -> None:
    """They are taken from the values, not from the bins."""
    parts = growing()
    seen = filled(*parts)
    values = np.concatenate([part.reshape(-1) for part in parts])
    assert (seen.least, seen.largest) == (float(values.min()), float(values.max()))
    assert seen.count == values.size == seen.counts.sum()
    assert seen.power == pytest.approx(float(np.square(values.astype(np.float64)).sum()), rel=1e-12)


def test_order_does_not_matter() -> None:
    """Small values after large ones lie in the same bins as before them."""
    parts = growing()
    first, second = filled(*parts), filled(*parts[::-1])
    assert first.width == second.width
    np.testing.assert_array_equal(first.counts, second.counts)


@pytest.mark.parametrize("sign", [1, -1])
def test_the_bounds_stay_the_values_own(sign: int) -> None:
    """Values far from zero do not make zero a bound."""
    seen = filled(np.float32([3, 5]) * sign, np.float32([4]) * sign)
    assert (seen.least, seen.largest) == (min(3 * sign, 5 * sign), max(3 * sign, 5 * sign))


def test_half_of_the_bins_are_used_at_least() -> None:
    """Bins are as narrow as a power of two allows, so that the largest value lies in the outer half."""
    seen = filled(np.float32([0.3, -0.7]))
    outer = np.flatnonzero(seen.counts)
    assert max(abs(outer - HALF)) >= HALF // 2 - 1
    assert np.log2(seen.width) == np.rint(np.log2(seen.width))


def test_zeros_and_nothing() -> None:
    """Zeros are counted without a width; no values change nothing; later values give the zeros their bin."""
    seen = filled(np.zeros((0, 3), np.float32), np.zeros((2, 4), np.float32))
    assert (seen.least, seen.largest, seen.width, seen.count) == (0, 0, 0, 8)
    seen.add(np.float32([1]))
    assert seen.counts[HALF] == 8
    assert seen.counts.sum() == seen.count == 9


@pytest.mark.parametrize("value", [1e-45, 1e-30, 3e38])
def test_extreme_magnitudes(value: float) -> None:
    """The smallest and the largest float32 are counted, in finite bins."""
    seen = filled(np.float32([value, -value, 0]))
    assert seen.counts.sum() == 3
    assert np.isfinite(seen.centres()).all()
    assert np.float32(seen.width) > 0
