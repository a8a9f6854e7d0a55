"""ByteRange: the float32 values that the bytes of one tensor stand for at one level, and the ways to choose it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nested_sparse.quantization import is_scale

from .histogram import Histogram

LARGEST = 255
OUTSIDE = 1e-4
"""Share of values that "percentile" leaves outside the range, half of it at each end."""
SHRINKS = 64
"""Candidates of "mse" for each end of a range."""
LEAST_SHARE = 0.2
"""Smallest candidate of "mse", as a share of the whole range."""


@dataclass(frozen=True, slots=True)
class ByteRange:
    """value = scale · (byte − zero); scale is a normal float32 above 0, zero is a byte."""

    scale: float
    zero: int

    @staticmethod
    def of(least: float, largest: float) -> ByteRange:
        """The range from `least` to `largest`, made to hold 0: as training rounds (trainer/model/layers)."""
        low, high = np.float32(min(least, 0.0)), np.float32(max(largest, 0.0))
        with np.errstate(over="ignore"):
            scale = (high - low) / np.float32(LARGEST)
        if not is_scale(np.asarray(scale)):
            scale = np.float32(1)
        return ByteRange(float(scale), int(np.clip(np.rint(-low / scale), 0, LARGEST)))

    @property
    def limits(self) -> tuple[float, float]:
        """The least and the largest value that a byte stands for."""
        return -self.zero * self.scale, (LARGEST - self.zero) * self.scale

    def widened(self, scale: float) -> ByteRange:
        """The same range where its scale is at least `scale`, else a wider one around the same zero."""
        if self.scale >= scale:
            return self
        return ByteRange(float(np.float32(scale)), self.zero)

    def noise(self, seen: Histogram) -> float:
        """Mean square error of the values in `seen` when they are held as bytes."""
        return _noise(seen.counts, seen.centres(), seen.width, *self.limits) / max(seen.count, 1)


def min_max(seen: Histogram) -> ByteRange:
    """All values."""
    return ByteRange.of(seen.least, seen.largest)


def percentile(seen: Histogram) -> ByteRange:
    """All values but OUTSIDE of them, those at both ends."""
    total = np.cumsum(seen.counts)
    if not seen.width:
        return min_max(seen)
    cut = OUTSIDE / 2 * seen.count
    centres = seen.centres()
    low = centres[int(np.searchsorted(total, cut, side="right"))] - seen.width / 2
    high = centres[int(np.searchsorted(total, seen.count - cut, side="left"))] + seen.width / 2
    return ByteRange.of(max(low, seen.least), min(high, seen.largest))


def least_error(seen: Histogram) -> ByteRange:
    """The range with the least mean square error: both ends shrink apart, one after the other."""
    least, largest = min(seen.least, 0.0), max(seen.largest, 0.0)
    used = np.flatnonzero(seen.counts)
    counts, centres = seen.counts[used], seen.centres()[used]
    for _ in range(2):
        least = min(_shrunk(least), key=lambda low: _noise(counts, centres, seen.width, low, largest))
        largest = min(_shrunk(largest), key=lambda high: _noise(counts, centres, seen.width, least, high))
    return ByteRange.of(least, largest)


def _shrunk(end: float) -> NDArray[np.float64]:
    return end * np.linspace(1.0, LEAST_SHARE, SHRINKS) if end else np.zeros(1)


def _noise(
    counts: NDArray[np.int64], centres: NDArray[np.float64], width: float, least: float, largest: float
) -> float:
    """Sum of the square errors: a uniform error of one step inside, the distance to the nearest end outside."""
    beyond = np.maximum(np.maximum(least - centres, centres - largest), 0.0)
    step = (largest - least) / LARGEST
    spread = np.where(np.abs(centres) < width, 0.0, step**2 / 12)  # zero itself has a byte
    return float(counts @ np.where(beyond > 0, beyond**2, spread))


METHODS: Mapping[str, Callable[[Histogram], ByteRange]] = {
    "mse": least_error,
    "percentile": percentile,
    "minmax": min_max,
}
"""Ways to choose a range, by name, the default first."""
