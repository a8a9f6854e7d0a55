"""RouteTable: where in an inference the level may fall, what is left from there at each level, and what that scores."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
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
    """L levels; N operators, the nested nodes in the order they run.

    layers: N names; ".1", ".2", ... follow where a layer is used again.
    remaining_share: (L, N) float64, the share of a level's whole run that is left when the operator starts; falls with
        the operator, and is at most 1 at the first: the rest is what comes before any operator.
    accuracy: (L, L, N) float64, [start, end, operator]: expected score of an inference whose operators from this one on
        run at `end` and those before at `start`; NaN where the level may not fall. end < start only.

    Raises InputError: shapes that do not fit, shares that are none, levels that would rise.
    """

    layers: tuple[str, ...]
    remaining_share: NDArray[np.float64]
    accuracy: NDArray[np.float64]

    def __post_init__(self) -> None:
        """Check, and hold what the operators will read: contiguous, of one dtype, never written."""
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
        """L."""
        return len(self.remaining_share)

    @staticmethod
    def measure(session: Session, batch: int = 1, repeats: int = 15, limit_s: float = 5.0) -> RouteTable:
        """The routes of a model on this device: times that its operators take themselves, accuracies from its file.

        Every level runs `repeats` times on random inputs, in turns, after a warm-up; medians. Stops early, after at
        least 3 turns, when `limit_s` have passed. A model of fixed batch is measured at that one. Raises InputError,
        and what the session's run does.
        """
        from .times import measure_shares

        layers, shares = measure_shares(session, batch, repeats, limit_s)
        return RouteTable(layers, shares, route_accuracy(layers, session.levels, session.reroutes))


def operator_names(layers: Iterable[str]) -> tuple[str, ...]:
    """A name for each use of a layer, as the graph's nodes have it: its own, then ".1", ".2", ..."""
    uses: Counter[str] = Counter()
    names = []
    for layer in layers:
        names.append(f"{layer}.{uses[layer]}" if uses[layer] else layer)
        uses[layer] += 1
    return tuple(names)


def route_accuracy(
    operators: Sequence[str], levels: Sequence[Level], reroutes: Sequence[Reroute]
) -> NDArray[np.float64]:
    """(L, L, N): the expected score of every lowering, NaN where the level may not fall.

    reroutes: what was measured of the model; names that are no operators are passed over. Without any, the level may
        fall everywhere, and what follows is taken to score what the lower level does: deadlines first.
    At the first operator it may always fall, for that is a whole run at the lower level. A level without a metric
    "accuracy" scores its index where no level has one; otherwise nothing is known of it.
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
    """(L,) of whole runs."""
    if all(level.accuracy is None for level in levels):
        return np.arange(len(levels), dtype=np.float64)
    return np.array([np.nan if level.accuracy is None else level.accuracy for level in levels], np.float64)
