"""RouteTable: the operators at which a level may fall, with the time left from there and the expected accuracy."""

from __future__ import annotations

import math
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
        one run at `start`, and whose operators from this one on run at `end`. NaN where it is unknown; a level never
        rises, so all values with end >= start are NaN.
    ranks: (L, L, N) float64, places as of `accuracy`: ranks of the falls, NaN where the level may not fall. None: the
        accuracies rank them, and the level may not fall where they are NaN.

    Raises InputError: arrays of other shapes, values that are no such shares, a value where the level would rise.
    """

    layers: tuple[str, ...]
    remaining_share: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    ranks: NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        """Check the arrays, and keep them as the operators read them: contiguous, of one dtype, never written."""
        count = len(self.layers)
        given = {"remaining_share": self.remaining_share, "accuracy": self.accuracy, "ranks": self.ranks}
        arrays = {name: np.array(each, np.float64, order="C") for name, each in given.items() if each is not None}
        levels = len(arrays["remaining_share"])
        falls = (levels, levels, count)
        expected = {"remaining_share": (levels, count), "accuracy": falls, "ranks": falls}
        for name, array in arrays.items():
            if array.shape != expected[name]:
                raise InputError(f"route table: {name} of {count} operators: {array.shape}, expected {expected[name]}")
            array.flags.writeable = False
            object.__setattr__(self, name, array)
        share = self.remaining_share
        if not (levels and np.all((share >= 0) & (share <= 1)) and np.all(np.diff(share, axis=1) <= 0)):
            raise InputError("route table: remaining_share must fall from at most 1 to no less than 0 at every level")
        for name in arrays.keys() - {"remaining_share"}:
            if not np.isnan(arrays[name][np.triu_indices(levels)]).all():
                raise InputError(f"route table: {name} where end is not below start; a level never rises in a run")

    @property
    def level_count(self) -> int:
        """Number of levels, L."""
        return len(self.remaining_share)

    @property
    def order(self) -> NDArray[np.float64]:
        """(L, L, N), [start, end, operator]: ranks of the falls, the best the highest; NaN where none is allowed."""
        return self.accuracy if self.ranks is None else self.ranks

    def expected_accuracy(self, start: int, end: int, operator: int) -> float | None:
        """The value of `accuracy` there; None where it is unknown."""
        accuracy = float(self.accuracy[start, end, operator])
        return None if math.isnan(accuracy) else accuracy

    @staticmethod
    def measure(session: Session, batch: int = 1, repeats: int = 15, limit_s: float = 5.0) -> RouteTable:
        """The routes of a model on this device: shares from the start times of its operators, accuracies from its file.

        Every level runs `repeats` times on random inputs after a warm-up, the levels in turns; the medians count. The
        measurement stops early, after at least 3 turns, when `limit_s` seconds have passed. A model of fixed batch is
        measured at its own batch. Raises InputError, and what the session's run raises.
        """
        from .times import measure_shares

        return RouteTable.of_shares(session, *measure_shares(session, batch, repeats, limit_s))

    @staticmethod
    def of_shares(session: Session, layers: Sequence[str], shares: NDArray[np.float64]) -> RouteTable:
        """The routes of a model whose `remaining_share` was measured. Raises InputError."""
        accuracy = route_accuracy(layers, session.levels, session.reroutes)
        return RouteTable(tuple(layers), shares, accuracy, route_ranks(accuracy, session.levels, session.reroutes))


def route_accuracy(
    operators: Sequence[str], levels: Sequence[Level], reroutes: Sequence[Reroute]
) -> NDArray[np.float64]:
    """RouteTable.accuracy, (L, L, N): the expected accuracy of every lowering, NaN where it is unknown.

    reroutes: measured accuracies of lowered inferences; names that are no operators are passed over. Without any
        reroutes the level may fall at every operator, because deadlines come first, and a lowered inference is taken to
        score what its lower level scores.
    At the first operator, a lowered inference is a whole run at the lower level. Where a reroute says what that scores
    on its own samples, others than those of the levels' accuracies, its accuracies are moved by the difference. So they
    can be compared with the levels'; none of them then exceeds the better of the two levels.
    """
    table = np.full((len(levels), len(levels), len(operators)), np.nan)
    own = np.array([np.nan if level.accuracy is None else level.accuracy for level in levels], np.float64)
    at = {name: n for n, name in enumerate(operators)}
    for start in range(1, len(levels)):
        for end in range(start):
            table[start, end, : None if not reroutes else 1] = own[end]
    for reroute in reroutes:
        start, end = reroute.start, reroute.end
        whole_run = next((reroute.accuracy[name] for name in operators[:1] if name in reroute.accuracy), np.nan)
        move, most = own[end] - whole_run, np.fmax(own[start], own[end])
        for layer, accuracy in reroute.accuracy.items():
            if at.get(layer):  # at the first operator, the lower level's own accuracy counts
                moved = accuracy if math.isnan(move) else min(max(accuracy + move, 0.0), most)
                table[start, end, at[layer]] = moved
    return table


def route_ranks(
    accuracy: NDArray[np.float64], levels: Sequence[Level], reroutes: Sequence[Reroute]
) -> NDArray[np.float64] | None:
    """RouteTable.ranks, (L, L, N): where no level states an accuracy, each fall ranks by the index of its lower level.

    accuracy: as route_accuracy returns it, of the same levels and reroutes.
    The level may fall at the first operator, and where a reroute was measured; without any reroutes, everywhere. A
    measured accuracy cannot be compared with a whole run whose accuracy is unknown, so it does not count in the ranks.
    None where some level states an accuracy: then the accuracies rank the falls.
    """
    if any(level.accuracy is not None for level in levels):
        return None
    allowed = ~np.isnan(accuracy) if reroutes else np.ones(accuracy.shape, np.bool_)
    allowed[:, :, :1] = True
    index = np.arange(len(levels), dtype=np.float64)[np.newaxis, :, np.newaxis]
    below = np.tri(len(levels), k=-1, dtype=np.bool_)[:, :, np.newaxis]
    return np.where(allowed & below, index, np.nan)
