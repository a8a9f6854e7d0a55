"""Traces: when requests arrive."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nested_sparse.errors import InputError


@dataclass(frozen=True)
class Trace:
    """Arrival times, ascending seconds from 0."""

    name: str
    times_s: NDArray[np.float64]


def poisson(rate_per_s: float, duration_s: float, rng: np.random.Generator) -> Trace:
    """A Poisson process."""
    return Trace("poisson", gamma(rate_per_s, 1.0, duration_s, rng).times_s)


def gamma(rate_per_s: float, cv2: float, duration_s: float, rng: np.random.Generator) -> Trace:
    """Gaps of a Gamma distribution with squared coefficient of variation `cv2`: the larger, the burstier."""
    count = int(rate_per_s * duration_s * 2 + 50 * cv2)
    times = np.cumsum(rng.gamma(1.0 / cv2, cv2 / rate_per_s, count))
    return Trace(f"gamma-{cv2:g}", times[times < duration_s])


def ramp(rate_per_s: float, duration_s: float, rng: np.random.Generator) -> Trace:
    """A Poisson process whose rate rises linearly from 0 to twice the mean and falls again."""
    times = poisson(2.0 * rate_per_s, duration_s, rng).times_s
    share = 1.0 - np.abs(2.0 * times / duration_s - 1.0)
    return Trace("ramp", times[rng.random(len(times)) < share])


def arrivals_of(path: Path, rate_per_s: float, duration_s: float) -> Trace:
    """`arrival_us` of an .npz file, rescaled to the mean rate and cut. Raises InputError."""
    try:
        with np.load(path) as file:
            times = np.sort(file["arrival_us"].astype(np.float64)) / 1e6
    except (OSError, KeyError, ValueError) as error:
        raise InputError(f"{path}: not an .npz file with arrival_us ({error})") from None
    times = (times - times[0]) * ((len(times) - 1) / (times[-1] - times[0]) / rate_per_s)
    return Trace(path.stem, times[times < duration_s])
