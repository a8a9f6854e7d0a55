"""RouteTable: where in an inference the level may fall, what is left from there at each level, and what that scores."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nested_sparse.errors import InputError
from nested_sparse.reroute import Reroute

from ..scheduling import ACCURACY

if TYPE_CHECKING:
    from nested_sparse.level import Level

    from ..session import Session

MARGIN = 0.1
"""Of a whole run, what `decide` keeps in reserve at its start."""
_MEMORY_SHARE, _MEMORY_MS, _TURN_MS = 0.1, 0.5, 4.0


class Seen(NamedTuple):
    """Time that passed, and profiled time of what was done in it."""

    elapsed_ms: float = 0.0
    done_ms: float = 0.0


def fade(lately: Seen, last: Seen, now: Seen, level_ms: float) -> Seen:
    """What was seen lately of a run, once it has come from `last` to `now`: the reference of kernels/route.cc.

    A sum in which older time counts less: it remembers a tenth of a run at this level, and half a millisecond. The mean
    of the whole run so far sees a neighbour that has just begun too late: runs of 20 to 35 ms that one made late were
    rescued in 0.65 to 0.7 of the cases by it, in 0.8 to 0.9 so.
    """
    progress_ms = now.done_ms - last.done_ms
    kept = _memory_ms(level_ms) / (_memory_ms(level_ms) + progress_ms)
    return Seen(lately.elapsed_ms * kept + (now.elapsed_ms - last.elapsed_ms), lately.done_ms * kept + progress_ms)


def _memory_ms(level_ms: float) -> float:
    return _MEMORY_SHARE * level_ms + _MEMORY_MS


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

    def decide(
        self,
        level: int,
        n: int,
        elapsed_ms: float,
        level_ms: Sequence[float],
        budget_ms: float,
        slowdown: float,
        least_accuracy: float = -math.inf,
        lowest_level: int = 0,
        *,
        lately: Seen | None = None,
        margin: float = MARGIN,
    ) -> int:
        """The level from operator n on, `level` or lower: the reference of the rule in kernels/route.cc.

        elapsed_ms: since the run began. level_ms: (L,) of a whole run, undisturbed. budget_ms: what the run may take.
        slowdown: of level_ms, as predicted. What was seen lately counts where it is more, shrunk to the predicted one.
        lately: what was (`fade`); if None, the whole run so far, all of it at `level`.
        margin: of a whole run, what is kept in reserve at its start; it falls with the square root of what is left,
            as what independent operators take beyond their forecast adds up. Of a shared core, a neighbour's turn
            (4 ms) is kept besides, in the proportion that it takes of the time.

        The run stays at `level` where it is then in time. Else, of all places m >= n and lower levels that are allowed,
        it aims for the most accurate that is in time, the latest of equals; and where none is, for the soonest end, if
        that is sooner than to stay. It falls now if that place is n, else the next place decides anew.
        """
        left = self.remaining_share[level]
        elapsed, done = Seen(elapsed_ms, level_ms[level] * (1.0 - left[n])) if lately is None else lately
        forecast_ms = _memory_ms(level_ms[level]) / 2
        seen = max(slowdown, (elapsed + forecast_ms * slowdown) / (done + forecast_ms))

        def with_reserve(after_ms: float) -> float:
            return after_ms + margin * math.sqrt(level_ms[level] * after_ms)

        begun_ms = elapsed_ms + max(0.0, 1.0 - 1.0 / seen) * min(_TURN_MS, level_ms[level] * left[n])
        stays_ms = begun_ms + seen * with_reserve(level_ms[level] * left[n])
        if stays_ms <= budget_ms:
            return level
        in_time: list[tuple[float, int, int]] = []
        soonest = (stays_ms, len(self.layers), level)
        for m in range(n, len(self.layers)):
            for end in range(lowest_level, level):
                score = float(self.accuracy[level, end, m])
                if not score >= least_accuracy:  # NaN, too
                    continue
                after_ms = level_ms[end] * self.remaining_share[end, m]
                ends_ms = begun_ms + seen * (level_ms[level] * (left[n] - left[m]) + with_reserve(after_ms))
                if ends_ms <= budget_ms:
                    in_time.append((score, m, end))
                soonest = min(soonest, (ends_ms, m, end), key=lambda route: route[0])
        _, place, end = max(in_time) if in_time else soonest
        return end if place == n else level

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
    if not any(ACCURACY in level.metrics for level in levels):
        return np.arange(len(levels), dtype=np.float64)
    return np.array([level.metrics.get(ACCURACY, np.nan) for level in levels], np.float64)
