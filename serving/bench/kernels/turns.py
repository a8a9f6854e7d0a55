"""Turns: contenders are verified, then timed in turns, so that a drift of the machine affects all of them alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nested_sparse.errors import BenchError
from nested_sparse.value_type import INT8

WARM_UP = 2
Run = Callable[[], float]
"""A function that runs once and returns its time in milliseconds."""


def timed(
    work: Callable[[], object],
    clock: Callable[[], float] = time.perf_counter,
    *,
    calls: int = 1,
    warm: bool = False,
) -> Run:
    """`work` as a Run; `clock` is in seconds.

    calls: number of calls of `work` in a run, of which the mean counts. warm: whether a call that does not count comes
    first, after which the caches hold this contender's data in place of the others'.
    """

    def run() -> float:
        if warm:
            work()
        begin_s = clock()
        for _ in range(calls):
            work()
        return round(1000.0 * (clock() - begin_s) / calls, 4)

    return run


def interleaved(runs: Mapping[str, Run], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of `rounds` runs of each, in turns within every round, after WARM_UP rounds that do not count."""
    samples: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(WARM_UP + rounds):
        for name, run in runs.items():
            spent_ms = run()
            if turn >= WARM_UP:
                samples[name].append(spent_ms)
    return samples


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far an output may be from torch's. error: of an output and torch's; most: its bound; unit: of both."""

    error: Callable[[NDArray[Any], NDArray[Any]], float]
    most: float
    unit: str


def largest_error(got: NDArray[Any], expected: NDArray[Any]) -> float:
    """Largest difference / largest magnitude of `expected`."""
    return float(np.abs(got - expected).max() / np.abs(expected).max())


def mean_error(got: NDArray[Any], expected: NDArray[Any]) -> float:
    """Root mean square of the difference / root mean square of `expected`."""
    return float(np.linalg.norm(got - expected) / np.linalg.norm(expected))


FLOAT_TOLERANCE = Tolerance(largest_error, 1e-3, "the largest output")
INT8_TOLERANCE = Tolerance(mean_error, 0.25, "the outputs' root mean square")
"""Of int8 against float32: for random weights, patterns and engines that round alike stand at 0.19 to 0.22. The largest
difference of 1000 outputs says less: 0.15 to 0.31 for the same."""


def tolerance_of(values: str) -> Tolerance:
    """The tolerance of outputs computed from weights of this value type."""
    return INT8_TOLERANCE if values == INT8.name else FLOAT_TOLERANCE


def verified(name: str, got: NDArray[Any], expected: NDArray[Any], tolerance: Tolerance = FLOAT_TOLERANCE) -> float:
    """The error. Raises BenchError where the shapes differ, or the error is above the tolerance, or NaN."""
    if got.shape != expected.shape:
        raise BenchError(f"{name}: output: expected shape {list(expected.shape)}, got {list(got.shape)}")
    error = tolerance.error(got, expected)
    if not error <= tolerance.most:
        raise BenchError(
            f"{name}: differs from torch by {error:.2e} of {tolerance.unit}, expected at most {tolerance.most:g}; "
            "nothing was timed"
        )
    return error
