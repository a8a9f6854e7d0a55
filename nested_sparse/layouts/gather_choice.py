"""Gather choice: the weights that the gather groups of GS(B, k) keep, level after level (arXiv:2112.10898).

The largest weights that the balance allows are kept. The B / k rows of a bundle and the B column remainders are the two
sides of a graph, and the free weights of the bundle are its edges. A level adds n gather groups, which are n·k edges at
each row and n edges at each remainder. Any such choice splits into n gather groups (gather_dealing.py), so only the
counts matter here. No row keeps more than ⌊K / B⌋ weights of one remainder. Then the free weights are always balanced
like the kept ones, so that every number of gather groups up to ⌊K / B⌋·B / k can be reached from every lower number.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..mask import NEVER, grouped

if TYPE_CHECKING:  # its class calls this module
    from .gather_scatter import GatherScatter


def balanced_first_level(scores: NDArray[np.float64], keep: Sequence[int], layout: GatherScatter) -> NDArray[np.uint8]:
    """(O', K) first level of every weight from (O, K) scores in packed row order, O' a multiple of the bundle's rows.

    keep: weights that each level keeps, to the nearest gather group; at least one group is kept, and no more than fit.
    A bundle gets as many gather groups as the largest scores that lie in it fill, rounded. It gets more or fewer only
    where lower levels or its size leave no choice.
    """
    bundles = grouped(scores, layout.group_rows)
    first_level = np.full(bundles.shape, NEVER, np.uint8)
    before = np.zeros(len(bundles), np.int64)
    for level, count in enumerate(keep):
        quota = _quotas(scores, count, before, layout)
        for bundle in np.flatnonzero(quota > before):
            _grow_bundle(first_level[bundle], bundles[bundle], level, int(quota[bundle] - before[bundle]), layout)
        before = quota
    return first_level.reshape(-1, scores.shape[1])


def _quotas(
    scores: NDArray[np.float64], count: int, least: NDArray[np.int64], layout: GatherScatter
) -> NDArray[np.int64]:
    """Gather groups of each bundle, at least `least`, `count` weights in all.

    The share of each bundle is rounded down, then up where most is missing. A gather group of a last bundle with rows
    of padding counts for the weights that are not padding.
    """
    rows, columns = scores.shape
    most = columns // layout.banks * layout.group_rows
    first_row = np.arange(len(least)) * layout.group_rows
    worth = np.minimum(layout.group_rows, rows - first_row) * layout.per_row  # weights of a gather group
    best = np.argpartition(-scores.reshape(-1), min(count, scores.size) - 1)[:count] // columns
    share = np.bincount(best // layout.group_rows, minlength=len(least)) / worth
    quota = np.clip(share.astype(np.int64), least, most)
    changed = True
    while changed:
        changed = False
        missing = count - int((quota * worth).sum())
        step = 1 if missing > 0 else -1
        for bundle in np.argsort(step * (quota - share), kind="stable"):
            possible = quota[bundle] < most if step > 0 else quota[bundle] > least[bundle]
            if possible and 2 * step * missing > layout.banks:
                quota[bundle] += step
                missing -= step * worth[bundle]
                changed = True
    if not quota.any():
        quota[np.argmax(share)] = 1
    return np.asarray(quota)


def _grow_bundle(
    first_level: NDArray[np.uint8], scores: NDArray[np.float64], level: int, added: int, layout: GatherScatter
) -> None:
    """Give `added` gather groups of a bundle's free weights to `level`, in place."""
    limit = scores.shape[1] // layout.banks
    row, column = np.nonzero(first_level == NEVER)
    order = np.argsort(-scores[row, column], kind="stable")
    row, column = row[order], column[order]
    cell = row * layout.banks + column % layout.banks
    taken_row, taken_column = np.nonzero(first_level != NEVER)
    used = np.bincount(
        taken_row * layout.banks + taken_column % layout.banks, minlength=layout.group_rows * layout.banks
    )
    free = (limit - used).reshape(layout.group_rows, layout.banks)
    rank = _rank_within(cell)
    counts = _greedy_counts(cell[rank < free.reshape(-1)[cell]], added, layout)
    _repair(counts, free, added, layout)
    chosen = rank < counts.reshape(-1)[cell]
    first_level[row[chosen], column[chosen]] = level


def _rank_within(cell: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many entries before each one are of the same cell."""
    order = np.argsort(cell, kind="stable")
    sizes = np.bincount(cell)
    rank = np.empty(cell.size, np.int64)
    rank[order] = np.arange(cell.size) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return rank


def _greedy_counts(cells: NDArray[np.int64], added: int, layout: GatherScatter) -> NDArray[np.int64]:
    """(rows, B) how many of each cell are taken, best first, where no row nor remainder exceeds its share.

    cells: of the free weights, best first. The rule of the paper's code.
    """
    counts = np.zeros((layout.group_rows, layout.banks), np.int64)
    row_left, bank_left = [added * layout.per_row] * layout.group_rows, [added] * layout.banks
    taken, left = [], added * layout.banks
    for cell in cells.tolist():
        row, bank = divmod(cell, layout.banks)
        if row_left[row] and bank_left[bank]:
            row_left[row] -= 1
            bank_left[bank] -= 1
            taken.append(cell)
            left -= 1
            if not left:
                break
    counts += np.bincount(taken, minlength=counts.size).reshape(counts.shape)
    return counts


def _repair(counts: NDArray[np.int64], free: NDArray[np.int64], added: int, layout: GatherScatter) -> None:
    """Complete the greedy counts, in place: they may fill up remainders that only few rows could still use.

    Each turn moves weights along a path from a short row to a short remainder, giving at one cell and taking at the
    next (Ford and Fulkerson); the balance of `free` makes sure that there is one.
    """
    for row in np.repeat(np.arange(layout.group_rows), added * layout.per_row - counts.sum(axis=1)):
        came_by: dict[int, int] = {}  # remainder -> the row from which it gains
        gave: dict[int, int] = {}  # row -> the remainder at which it gives
        waiting, end = [int(row)], -1
        while end < 0:
            at = waiting.pop(0)
            for bank in np.flatnonzero(counts[at] < free[at]).tolist():
                if bank in came_by:
                    continue
                came_by[bank] = at
                if counts[:, bank].sum() < added:
                    end = bank
                    break
                for other in np.flatnonzero(counts[:, bank]).tolist():
                    if other != row and other not in gave:
                        gave[other] = bank
                        waiting.append(other)
        while True:
            at = came_by[end]
            counts[at, end] += 1
            if at == row:
                break
            end = gave[at]
            counts[at, end] -= 1
