"""TimeCurve: the time of a layer over the weights that it keeps."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

LEAST_MS = 1e-9
"""Time that a kept weight takes at least in a budget, so that it can be divided by; a weight takes some 1e-6 ms."""


@dataclass(frozen=True, slots=True)
class TimeCurve:
    """Time of a layer over the weights that it keeps: straight lines between knots, which never fall and never flatten.

    A layer's time is nearly constant while little is kept, and then rises with the weights. One line over all densities
    was tried: it was 25 % too high at a quarter of ResNet-20's weights.

    knots: (kept weights, ms), kept rising from 0. points: (kept weights, ms) as measured.
    """

    knots: tuple[tuple[int, float], ...]
    points: tuple[tuple[int, float], ...] = ()

    @classmethod
    def fit(cls, points: Iterable[tuple[int, float]]) -> TimeCurve:
        """The curve near the points, at least one: their slopes where these rise, means of neighbours where they fall.

        Below the first point the first slope goes on, as far as 0 ms.
        """
        measured = tuple(sorted(points))
        kept, ms = np.array(measured, np.float64).T
        risen = np.concatenate([[0.0], np.cumsum(_rising(np.diff(ms), np.diff(kept)))])
        risen += (ms - risen).mean()
        slope = (risen[1] - risen[0]) / (kept[1] - kept[0]) if kept.size > 1 else 0.0
        knots = [(0, max(0.0, float(risen[0] - slope * kept[0])))] if kept[0] else []
        return cls(
            (*knots, *((int(at), max(0.0, float(each))) for at, each in zip(kept, risen, strict=True))), measured
        )

    @classmethod
    def rise_of(cls, curves: Sequence[TimeCurve], stretch: float = 1.0) -> TimeCurve:
        """The sum of the curves without their fixed times, over `stretch` times as many weights.

        It rises by LEAST_MS for each weight, or more.
        """
        at = np.unique([0, 1, *(kept for curve in curves for kept, _ in curve.knots)])
        wide = np.round(at * stretch)
        rises = np.maximum(np.diff(sum(curve.ms(at) for curve in curves)), LEAST_MS * np.diff(wide))
        risen = np.concatenate([[0.0], np.cumsum(rises)])
        return cls(tuple((int(kept), float(ms)) for kept, ms in zip(wide, risen, strict=True)))

    @property
    def fixed_ms(self) -> float:
        """Time with nothing kept."""
        return self.knots[0][1]

    def ms(self, kept: ArrayLike) -> NDArray[np.float64]:
        """Time with so many weights kept; beyond the last knot the last slope goes on."""
        at, times_ms = np.array(self.knots, np.float64).T
        number = np.asarray(kept, np.float64)
        beyond = np.maximum(number - at[-1], 0) * (
            (times_ms[-1] - times_ms[-2]) / (at[-1] - at[-2]) if at.size > 1 else 0.0
        )
        return np.asarray(np.interp(number, at, times_ms) + beyond)


def _rising(rises: NDArray[np.float64], widths: NDArray[np.float64]) -> NDArray[np.float64]:
    """The rises of a curve over `widths` with slopes that never fall and are not below 0, by pooling neighbours."""
    pools: list[tuple[float, float, int]] = []  # rise, width, and number of parts
    for rise, width in zip(rises, widths, strict=True):
        pools.append((float(rise), float(width), 1))
        while len(pools) > 1 and pools[-2][0] * pools[-1][1] >= pools[-1][0] * pools[-2][1]:
            (rise_a, width_a, parts_a), (rise_b, width_b, parts_b) = pools[-2:]
            pools[-2:] = [(rise_a + rise_b, width_a + width_b, parts_a + parts_b)]
    slopes = np.repeat([max(0.0, rise / width) for rise, width, _ in pools], [parts for *_, parts in pools])
    return np.asarray(slopes * widths)
