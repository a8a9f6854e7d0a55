"""Turns: the order of runs, the samples that count, and arguments that are refused before any timing."""

from __future__ import annotations

import numpy as np
import pytest

from nested_sparse.errors import BenchError
from nested_sparse.serving.bench.kernels.turns import (
    WARM_UP,
    interleaved,
    largest_error,
    mean_error,
    timed,
    tolerance_of,
    verified,
)


def test_timed_is_the_clock_around_one_run():
    ticks = iter((10.0, 10.25, 20.0, 20.5))
    calls = []
    run = timed(lambda: calls.append(1), clock=lambda: next(ticks))
    assert (run(), run()) == (250.0, 500.0)
    assert len(calls) == 2


def test_everybody_runs_once_a_round_and_the_warm_up_does_not_count():
    order = []

    def contender(name, first_ms):
        def run():
            order.append(name)
            return first_ms + order.count(name)

        return run

    samples = interleaved({"a": contender("a", 0.0), "b": contender("b", 100.0)}, rounds=3)
    assert order == ["a", "b"] * (WARM_UP + 3)
    assert samples == {
        "a": [WARM_UP + 1.0, WARM_UP + 2.0, WARM_UP + 3.0],
        "b": [WARM_UP + 101.0, WARM_UP + 102.0, WARM_UP + 103.0],
    }


def test_errors_are_relative_to_the_outputs():
    """Of the largest output, or of the outputs' root mean square."""
    got, expected = np.array([3.0, -7.0]), np.array([0.0, -8.0])
    assert largest_error(got, expected) == 3 / 8
    assert mean_error(got, expected) == pytest.approx((10 / 64) ** 0.5)


@pytest.mark.parametrize("got", [[1.0, 2.01], [1.0, np.nan], [[1.0, 2.0]]])
def test_wrong_outputs_are_refused(got):
    """Outputs with wrong values, NaN or a wrong shape are refused."""
    with pytest.raises(BenchError):
        verified("ours", np.array(got), np.array([1.0, 2.0]))


def test_rounding_is_accepted():
    assert verified("ours", np.array([1.0, 2.0 + 1e-4]), np.array([1.0, 2.0])) == pytest.approx(5e-5)


def test_int8_is_measured_by_all_outputs_and_floats_by_the_worst():
    """One output of 1000 that is far off is no int8 network that went wrong; a tenth of all outputs is."""
    expected = np.ones(1000)
    one, many = expected.copy(), expected.copy()
    one[0], many[:100] = 4.0, 2.0
    assert verified("ours", one, expected, tolerance_of("int8")) == pytest.approx(0.0949, abs=1e-4)
    with pytest.raises(BenchError, match="root mean square"):
        verified("ours", many, expected, tolerance_of("int8"))
    with pytest.raises(BenchError, match="largest output"):
        verified("ours", one, expected, tolerance_of("float32"))
