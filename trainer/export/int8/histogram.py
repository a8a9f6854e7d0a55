"""Histogram: the values of one tensor at one level, counted while calibration batches come in."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

HALF = 2048
"""Bins on each side of zero."""
LEAST_WIDTH = 2.0**-126
"""Of a bin: the smallest normal float32, because values below it are zero to the operators."""


ROUNDING = 1e-12
"""A variance below this share of the mean square is the rounding of its sums."""


class Histogram:
    """Counts of values in equal bins around zero. Where a value lies outside, two bins become one until it fits.

    least, largest: exact bounds of all values so far; count: their number; total, power: sum of them and of
    their squares.
    """

    def __init__(self) -> None:
        self.counts = np.zeros(2 * HALF, np.int64)
        self.width = 0.0  # of a bin; a power of two, so that bins merge exactly
        self.least, self.largest = 0.0, 0.0
        self.count = 0
        self.total = self.power = 0.0

    def add(self, values: NDArray[np.floating[Any]]) -> None:
        """Count `values`, all finite."""
        if not values.size:
            return
        low, high = float(values.min()), float(values.max())
        self.least = low if not self.count else min(self.least, low)
        self.largest = high if not self.count else max(self.largest, high)
        self.count += values.size
        self.total += float(values.sum(dtype=np.float64))
        self.power += float(np.square(values, dtype=np.float64).sum())
        self._reach(max(abs(low), abs(high)))
        if self.width:
            bins = np.floor(values.reshape(-1) / np.float32(self.width)).astype(np.int64) + HALF
            self.counts += np.bincount(np.clip(bins, 0, 2 * HALF - 1), minlength=2 * HALF)
        else:
            self.counts[HALF] += values.size

    @property
    def mean_power(self) -> float:
        """Mean of the squares; 0 without values."""
        return self.power / max(self.count, 1)

    @property
    def variance(self) -> float:
        """Mean square distance from the mean; 0 where all values are equal, but for rounding."""
        mean = self.total / max(self.count, 1)
        spread = self.mean_power - mean * mean
        return spread if spread > ROUNDING * self.mean_power else 0.0

    def centres(self) -> NDArray[np.float64]:
        """(2 · HALF,) value in the middle of each bin."""
        return np.linspace(0.5 - HALF, HALF - 0.5, 2 * HALF) * self.width

    def _reach(self, magnitude: float) -> None:
        """Widen the bins until a value of this magnitude lies in one."""
        if magnitude == 0.0:
            return
        if not self.width:
            self.width = float(2.0 ** np.ceil(np.log2(max(magnitude / HALF, LEAST_WIDTH))))
        while magnitude > HALF * self.width:
            merged = self.counts.reshape(HALF, 2).sum(axis=1)
            self.counts[:] = 0
            self.counts[HALF // 2 : HALF // 2 + HALF] = merged
            self.width *= 2
