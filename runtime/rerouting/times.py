"""Times: the share of a run that is left when each of its operators starts, at every level, by the operators' clock."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from nested_sparse.errors import InputError
from nested_sparse.graph.contract import node_names
from nested_sparse.kernels.guarded_run import monotonic_ns

from ..session import Arrays, fixed_batch, random_inputs
from .guard import RouteGuard
from .table import RouteTable

if TYPE_CHECKING:
    from ..session import Session

_LEAST_TURNS = 3
_MOST_OPERATORS = 1024


def measure_shares(
    session: Session, batch: int, repeats: int, limit_s: float
) -> tuple[tuple[str, ...], NDArray[np.float64]]:
    """Names of the N operators in the order they run, and RouteTable.remaining_share (L, N).

    Measured as RouteTable.measure says. Raises InputError: no repeats, or a graph whose levels run different operators.
    """
    if repeats < 1:
        raise InputError(f"repeats: expected at least 1, got {repeats}")
    inputs = random_inputs(session.inputs, fixed_batch(session.inputs) or batch)
    recorder = _recorder(session, inputs)
    layers = [layer for layer, _ in recorder.starts]
    turns: list[list[NDArray[np.float64]]] = []
    end_s = time.monotonic() + limit_s
    while len(turns) < repeats and (len(turns) < _LEAST_TURNS or time.monotonic() < end_s):
        turns.append([_shares(session, inputs, level.index, recorder, len(layers)) for level in session.levels])
    shares = np.median(np.array(turns), axis=0).reshape(len(session.levels), len(layers))
    return node_names(layers), np.minimum.accumulate(shares, axis=1)


def _recorder(session: Session, inputs: Arrays) -> RouteGuard:
    """A guard that lowers nothing and records every operator. Each level has run once with it, as a warm-up."""
    levels = len(session.levels)
    nowhere = RouteTable((), np.empty((levels, 0)), np.empty((levels, levels, 0)))
    recorder = RouteGuard(nowhere, record=_MOST_OPERATORS)
    for level in range(levels):
        _run(session, inputs, level, recorder)
        if recorder.operator_count > _MOST_OPERATORS:
            recorder = RouteGuard(nowhere, record=recorder.operator_count)
            _run(session, inputs, level, recorder)
    return recorder


def _shares(session: Session, inputs: Arrays, level: int, recorder: RouteGuard, count: int) -> NDArray[np.float64]:
    """(N,) share of one run that was left at each operator's start."""
    whole_ms = _run(session, inputs, level, recorder)
    if recorder.operator_count != count:
        raise InputError(
            f"{session.name}: level {level} ran {recorder.operator_count} nested operators, another run {count}; "
            "an inference whose length depends on its input cannot be timed so"
        )
    starts_ms = np.array([start_ms for _, start_ms in recorder.starts])
    return np.clip(1.0 - starts_ms / whole_ms, 0.0, 1.0)


def _run(session: Session, inputs: Arrays, level: int, recorder: RouteGuard) -> float:
    """Milliseconds, from arming to the outputs."""
    begun_ns = monotonic_ns()
    recorder.arm(level, [1.0] * len(session.levels), np.inf, 1.0)
    session.run(inputs, level, guard=recorder)
    return max((monotonic_ns() - begun_ns) / 1e6, 1e-6)
