"""TimeCurve: lines between measured points that never fall and never flatten, and sums of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nested_sparse.time_curve import LEAST_MS, TimeCurve


@pytest.mark.parametrize(
    ("points", "knots"),
    [
        ([(0, 1.0), (10, 2.0), (20, 3.0)], [(0, 1.0), (10, 2.0), (20, 3.0)]),
        ([(10, 2.0), (20, 3.0), (30, 9.0)], [(0, 1.0), (10, 2.0), (20, 3.0), (30, 9.0)]),  # rises ever faster
        ([(0, 1.0), (10, 3.5), (20, 4.0)], [(0, 1 + 1 / 3), (10, 2 + 5 / 6), (20, 4 + 1 / 3)]),  # one slope for both
        ([(0, 3.0), (10, 2.0)], [(0, 2.5), (10, 2.5)]),  # faster with more: noise of a layer that is bound by memory
        ([(10, 1.0), (20, 4.0)], [(0, 0.0), (10, 1.0), (20, 4.0)]),  # never below 0
        ([(10, 2.0)], [(0, 2.0), (10, 2.0)]),
        ([(20, 3.0), (10, 2.0)], [(0, 1.0), (10, 2.0), (20, 3.0)]),  # in any order
    ],
)
def test_a_curve_is_near_its_points(points: list[tuple[int, float]], knots: list[tuple[int, float]]) -> None:
    """Worked out by hand."""
    curve = TimeCurve.fit(points)
    assert np.allclose(curve.knots, knots)
    assert curve.points == tuple(sorted(points))
    assert curve.fixed_ms == curve.knots[0][1]


@given(
    st.lists(
        st.tuples(st.integers(0, 10_000), st.floats(0, 100)), min_size=1, max_size=8, unique_by=lambda point: point[0]
    )
)
def test_a_curve_never_falls_and_its_slope_never_falls(points: list[tuple[int, float]]) -> None:
    """The points may be any: a budget adds the blocks of a layer one after the other, the cheapest first."""
    kept, ms = np.array(TimeCurve.fit(points).knots).T
    slopes = np.diff(ms) / np.diff(kept)
    assert kept[0] == 0
    assert (ms >= 0).all()
    assert (slopes >= 0).all()
    assert (np.diff(slopes) >= -1e-9).all() or ms[0] == 0


def test_times_lie_on_the_lines() -> None:
    """Between knots, and beyond the last one."""
    curve = TimeCurve(((0, 1.0), (10, 2.0), (20, 5.0)))
    assert curve.ms([0, 5, 10, 15, 20, 30]).tolist() == [1.0, 1.5, 2.0, 3.5, 5.0, 8.0]
    assert float(TimeCurve(((0, 3.0),)).ms(7)) == 3.0


def test_a_rise_is_the_sum_of_its_curves_above_their_fixed_times() -> None:
    """Stretched over the weights of padding; it rises everywhere."""
    curves = [TimeCurve(((0, 1.0), (10, 2.0), (20, 5.0))), TimeCurve(((0, 7.0), (5, 8.0)))]
    rise = TimeCurve.rise_of(curves)
    assert np.allclose(rise.ms([0, 5, 10, 20]), [0.0, 1.5, 3.0, 8.0])
    wide = TimeCurve.rise_of(curves, stretch=2.0)
    assert np.allclose(wide.ms([0, 10, 20, 40]), [0.0, 1.5, 3.0, 8.0])
    flat = TimeCurve.rise_of([TimeCurve(((0, 3.0), (10, 3.0)))])
    assert np.allclose(np.diff(flat.ms(np.arange(20))), LEAST_MS, rtol=1e-3)
