"""Turns: contenders are verified, then timed in turns, so that a drift of the machine affects all of them alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nested_sparse.errors import BenchError

WARM_UP = 2
RELATIVE_TOLERANCE = 1e-3
INT8_TOLERANCE = 0.3
"""Of int8 against float32: at 5 % of random weights, engines that round alike stand at 0.16 to 0.21."""

Run = Callable[[], float]
"""A function that runs once and returns its time in milliseconds."""


def timed(work: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> Run:
    """`work` as a Run; `clock` is in seconds."""

    def run() -> float:
        begin_s = clock()
        work()
        return round(1000.0 * (clock() - begin_s), 4)

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


def relative_error(got: NDArray[Any], expected: NDArray[Any]) -> float:
    """Largest difference / largest magnitude of `expected`. Raises BenchError where the shapes differ."""
    if got.shape != expected.shape:
        raise BenchError(f"output: expected shape {list(expected.shape)}, got {list(got.shape)}")
    return float(np.abs(got - expected).max() / np.abs(expected).max())


def verified(name: str, got: NDArray[Any], expected: NDArray[Any], tolerance: float = RELATIVE_TOLERANCE) -> float:
    """The relative error. Raises BenchError where it is above `tolerance`, or NaN."""
    error = relative_error(got, expected)
    if not error <= tolerance:
        raise BenchError(
            f"{name}: differs from torch by {error:.2e} of the largest output, expected at most {tolerance:g}; "
            "nothing was timed"
        )
    return error
