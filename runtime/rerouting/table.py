"""RouteTable: where the level of an inference may fall, how much time is left from there, and the expected accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from nested_sparse.errors import InputError
from nested_sparse.reroute import Reroute

if TYPE_CHECKING:
    from nested_sparse.level import Level

    from ..session import Session


@dataclass(frozen=True)
class RouteTable:
    """The routes of a model with L levels and N operators, the nested nodes in the order they run.

    layers: N names of operators. The second, third, ... use of a layer has ".1", ".2", ... after the layer's name.
    remaining_share: (L, N) float64, share of a whole run at a level that is left when the operator starts. It falls
        from one operator to the next. At the first one it is at most 1; the rest of the run comes before any operator.
    accuracy: (L, L, N) float64, [start, end, operator]: expected accuracy of an inference whose operators before this
        one run at `start`, and whose operators from this one on run at `end`. NaN where the level may not fall; a level
        never rises, so all values with end >= start are NaN.

    Raises InputError: arrays of other shapes, values that are no such shares, an accuracy where the level would rise.
    """

    layers: tuple[str, ...]
    remaining_share: NDArray[np.float64]
    accuracy: NDArray[np.float64]

    def __post_init__(self) -> None:
        """Check the arrays, and keep them as the operators read them: contiguous, of one dtype, never written."""
        count = len(self.layers)
        arrays = {
            "remaining_share": np.array(self.remaining_share, np.float64, order="C"),
            "accuracy": np.array(self.accuracy, np.float64, order="C"),
        }
        levels = len(arrays["remaining_share"])
        expected = {"remaining_share": (levels, count), "accuracy": (levels, levels, count)}
        for name, array in arrays.items():
            if array.shape != expected[name]:
                raise InputError(f"route table: {name} of {count} operators: {array.shape}, expected {expected[name]}")
            array.flags.writeable = False
            object.__setattr__(self, name, array)
        share = self.remaining_share
        if not (levels and np.all((share >= 0) & (share <= 1)) and np.all(np.diff(share, axis=1) <= 0)):
            raise InputError("route table: remaining_share must fall from at most 1 to no less than 0 at every level")
        if not np.isnan(self.accuracy[np.triu_indices(levels)]).all():
            raise InputError("route table: accuracy where end is not below start; a level never rises in a run")

    @property
    def level_count(self) -> int:
        """Number of levels, L."""
        return len(self.remaining_share)

    @staticmethod
    def measure(session: Session, batch: int = 1, repeats: int = 15, limit_s: float = 5.0) -> RouteTable:
        """The routes of a model on this device: shares from the start times of its operators, accuracies from its file.

        Every level runs `repeats` times on random inputs after a warm-up, the levels in turns; the medians count. The
        measurement stops early, after at least 3 turns, when `limit_s` seconds have passed. A model of fixed batch is
        measured at its own batch. Raises InputError, and what the session's run raises.
        """
        from .times import measure_shares

        layers, shares = measure_shares(session, batch, repeats, limit_s)
        return RouteTable(layers, shares, route_accuracy(layers, session.levels, session.reroutes))


def route_accuracy(
    operators: Sequence[str], levels: Sequence[Level], reroutes: Sequence[Reroute]
) -> NDArray[np.float64]:
    """RouteTable.accuracy, (L, L, N): the expected accuracy of every lowering, NaN where the level may not fall.

    reroutes: measured accuracies of lowered inferences; names that are no operators are passed over. Without any
        reroutes the level may fall at every operator, because deadlines come first, and a lowered inference is taken to
        score what its lower level scores.
    At the first operator the level may always fall: that is a whole run at the lower level. Where no level states an
    accuracy, each counts with its index; where only some do, the accuracy of the others is unknown.
    """
    count = len(operators)
    table = np.full((len(levels), len(levels), count), np.nan)
    own = _own_accuracy(levels)
    at = {name: n for n, name in enumerate(operators)}
    for start in range(1, len(levels)):
        for end in range(start):
            if not reroutes:
                table[start, end, :] = own[end]
    for reroute in reroutes:
        for layer, accuracy in reroute.accuracy.items():
            if layer in at:
                table[reroute.start, reroute.end, at[layer]] = accuracy
    if count:
        table[:, :, 0] = np.where(np.tri(len(levels), k=-1, dtype=bool), own[np.newaxis, :], np.nan)
    return table


def _own_accuracy(levels: Sequence[Level]) -> NDArray[np.float64]:
    """(L,) accuracy of whole runs, NaN where it is unknown; the index of each level where no level states one."""
    if all(level.accuracy is None for level in levels):
        return np.arange(len(levels), dtype=np.float64)
    return np.array([np.nan if level.accuracy is None else level.accuracy for level in levels], np.float64)
