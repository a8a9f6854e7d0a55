"""Gather dealing: the division of the weights that a level adds into gather groups (FORMAT.md, "Gather groups").

With n gather groups, every row of the bundle has n·k of the weights and every column remainder has n. Each row is cut
into k slots of n weights. The B slots and the B remainders, n weights at each, form a regular bipartite multigraph.
Such a graph always splits into n perfect matchings (König). Each matching is a gather group.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..errors import PatternError

if TYPE_CHECKING:  # its class calls this module
    from .gather_scatter import GatherScatter

Columns = NDArray[np.int64]


def gather_groups(kept: NDArray[np.bool_], layout: GatherScatter, where: str) -> Columns:
    """(n, B) columns of the gather groups that hold the weights of one bundle, `kept` (B / k, K).

    Weight i of a gather group lies in row i // k of the bundle. Columns of a row that share a remainder ascend from one
    group to the next.

    where: weight, level and bundle, for errors.
    Raises PatternError where `kept` is not balanced.
    """
    rows, banks, per_row = layout.group_rows, layout.banks, layout.per_row
    row, column = np.nonzero(kept)
    cell = row * banks + column % banks
    counts = np.bincount(cell, minlength=rows * banks).reshape(rows, banks)
    added = len(row) // banks
    if (counts.sum(axis=1) != added * per_row).any() or (counts.sum(axis=0) != added).any():
        raise PatternError(
            f"{where}: {layout.name} needs as many weights in each of {rows} rows, and of each column remainder "
            f"modulo {banks}; got {counts.sum(axis=1).tolist()} and {counts.sum(axis=0).tolist()} "
            "(choose masks with nested_sparse.layouts)"
        )
    remainders = _matchings(_slots(counts, per_row), added)  # (n, B)
    wanted = layout.lane_rows * banks + remainders  # row and remainder of each weight
    columns = np.empty(wanted.size, np.int64)
    columns[np.argsort(wanted.reshape(-1), kind="stable")] = column[np.argsort(cell, kind="stable")]
    return columns.reshape(wanted.shape)


def _slots(counts: NDArray[np.int64], per_row: int) -> NDArray[np.int64]:
    """(B, B) the counts of each row (n·k in all) cut into k slots of n each."""
    added = counts.sum(axis=0)[0]
    ends = np.cumsum(counts, axis=1)[:, None, :]
    begins = ends - counts[:, None, :]
    first = (np.arange(per_row) * added)[None, :, None]
    overlap = np.minimum(ends, first + added) - np.maximum(begins, first)
    return np.asarray(np.maximum(overlap, 0).reshape(counts.shape[1], -1))


def _matchings(slots: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """(n, B) remainder of every slot in each of n perfect matchings that use up `slots`.

    A matching is repeated as often as its scarcest edge allows; only the slots whose edge is then gone look for another
    (Birkhoff), so the work depends on B, hardly on n.
    """
    left = slots.tolist()
    matched: list[int] = [-1] * len(left)  # slot -> remainder
    owner: list[int] = [-1] * len(left)  # remainder -> slot
    found, repeats = [], []
    while count > 0:
        for slot, bank in enumerate(matched):
            if bank < 0:
                _match(slot, left, matched, owner, set())
        times = min(left[slot][bank] for slot, bank in enumerate(matched))
        found.append(list(matched))
        repeats.append(times)
        count -= times
        for slot, bank in enumerate(matched):
            left[slot][bank] -= times
            if not left[slot][bank]:
                matched[slot] = owner[bank] = -1
    return np.repeat(np.array(found, np.int64).reshape(-1, len(left)), repeats, axis=0)


def _match(slot: int, left: list[list[int]], matched: list[int], owner: list[int], tried: set[int]) -> bool:
    """Match `slot`, moving others on where needed (Kuhn)."""
    for bank, edges in enumerate(left[slot]):
        if not edges or bank in tried:
            continue
        tried.add(bank)
        if owner[bank] < 0 or _match(owner[bank], left, matched, owner, tried):
            matched[slot], owner[bank] = bank, slot
            return True
    return False
