"""Traces: the times at which requests arrive."""

from __future__ import annotations

import math
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nested_sparse.errors import InputError
from nested_sparse.excerpt import excerpt


@dataclass(frozen=True)
class Trace:
    """Arrivals. times_s: (requests,) float64, seconds from the beginning, never falling."""

    name: str
    times_s: NDArray[np.float64]

    def __post_init__(self) -> None:
        times_s = np.asarray(self.times_s, np.float64)
        if times_s.ndim != 1 or not np.isfinite(times_s).all() or (times_s < 0).any() or (np.diff(times_s) < 0).any():
            raise InputError(f"trace {self.name!r}: arrivals must be finite seconds from 0 on that never fall")
        object.__setattr__(self, "times_s", times_s)

    @property
    def cv2(self) -> float:
        """Squared coefficient of variation of the times between arrivals, as achieved; NaN for fewer than 3."""
        gaps_s = np.diff(self.times_s)
        return float(np.var(gaps_s) / np.mean(gaps_s) ** 2) if len(gaps_s) > 1 and np.any(gaps_s > 0) else math.nan


def poisson(rate_per_s: float, duration_s: float, seed: int = 0) -> Trace:
    """Exponential times between arrivals."""
    return Trace("poisson", _gamma_times(rate_per_s, duration_s, 1.0, np.random.default_rng(seed)))


def gamma(rate_per_s: float, duration_s: float, cv2: float, seed: int = 0, base_share: float = 0.0) -> Trace:
    """Gamma-distributed times between arrivals, of shape 1/CV² (bursty for cv2 > 1).

    base_share: share of the rate that arrives evenly spaced, under the bursts (SuperServe, NSDI'25, section 6); the
    CV² is then that of the bursts alone.
    """
    if not (cv2 > 0 and 0 <= base_share < 1):
        raise InputError(f"gamma trace: expected cv2 above 0 and base_share in [0, 1), got {cv2} and {base_share}")
    times_s = _gamma_times(rate_per_s * (1 - base_share), duration_s, cv2, np.random.default_rng(seed))
    if base_share > 0:
        base_s = np.arange(0.0, duration_s, 1.0 / (rate_per_s * base_share))
        times_s = np.sort(np.concatenate((times_s, base_s)))
    return Trace(f"gamma {cv2:g}", times_s)


def ramp(first_per_s: float, last_per_s: float, duration_s: float, seed: int = 0) -> Trace:
    """Poisson arrivals whose rate goes linearly from the first to the last, by thinning (Lewis and Shedler, 1979)."""
    _check(min(first_per_s, last_per_s), duration_s)
    generator = np.random.default_rng(seed)
    highest_per_s = max(first_per_s, last_per_s)
    times_s = _gamma_times(highest_per_s, duration_s, 1.0, generator)
    rates_per_s = first_per_s + (last_per_s - first_per_s) * times_s / duration_s
    return Trace("ramp", times_s[generator.uniform(0.0, highest_per_s, len(times_s)) < rates_per_s])


def arrivals_of(path: str | Path, rate_per_s: float, duration_s: float) -> Trace:
    """The first arrivals of a recorded trace, as many as rate × duration, stretched so that they fill the duration.

    The file is an .npz with `arrival_us` (microseconds, ascending). Raises InputError if it is not, or is too short.
    """
    _check(rate_per_s, duration_s)
    path = Path(path)
    try:
        with np.load(path) as arrays:
            arrival_us = np.asarray(arrays["arrival_us"], np.float64)
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: expected an .npz with arrival_us ({excerpt(error)})") from error
    count = round(rate_per_s * duration_s)
    if arrival_us.ndim != 1 or len(arrival_us) <= count or count < 1:
        raise InputError(
            f"{path}: {rate_per_s:g} requests/s for {duration_s:g} s need more than {max(count, 1)} arrivals, "
            f"arrival_us has shape {arrival_us.shape}; lower the rate or the duration"
        )
    span_us = arrival_us[count] - arrival_us[0]
    if not span_us > 0:
        raise InputError(f"{path}: the first {count} arrivals all come at once; use another file")
    return Trace(path.stem, (arrival_us[:count] - arrival_us[0]) / span_us * duration_s)


def _gamma_times(
    rate_per_s: float, duration_s: float, cv2: float, generator: np.random.Generator
) -> NDArray[np.float64]:
    """Arrivals before `duration_s`, drawn in portions until there are enough."""
    _check(rate_per_s, duration_s)
    times_s = np.zeros(1)
    portion = math.ceil(rate_per_s * duration_s) + 16
    while times_s[-1] < duration_s:
        gaps_s = generator.gamma(1.0 / cv2, cv2 / rate_per_s, portion)
        times_s = np.concatenate((times_s, times_s[-1] + np.cumsum(gaps_s)))
    return times_s[1:][times_s[1:] < duration_s]


def _check(rate_per_s: float, duration_s: float) -> None:
    if not (0 < rate_per_s < math.inf and 0 < duration_s < math.inf):
        raise InputError(f"trace: expected a rate and a duration above 0, got {rate_per_s} 1/s and {duration_s} s")
