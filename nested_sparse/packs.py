"""Packs: the weights that a level adds to a GS(B, k) weight, dealt out to gathers (FORMAT.md, "Packs").

Every row of a bundle has n·k of them, every column remainder n. Cut each row into k slots of n: B slots by B remainders
with n at each, a regular bipartite multigraph, which always splits into n perfect matchings (König): the packs.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .errors import PatternError
from .pattern import Pack

Columns = NDArray[np.int64]


def packs_of_bundle(kept: NDArray[np.bool_], pack: Pack, where: str = "weight") -> Columns:
    """(n, B) columns of the packs that hold the weights of `kept` (B / k, K), lane i in row i // k of the bundle.

    Columns of a row that share a remainder ascend from pack to pack. Raises PatternError where `kept` is not balanced.
    """
    row, column = np.nonzero(kept)
    cell = row * pack.banks + column % pack.banks
    counts = np.bincount(cell, minlength=pack.rows * pack.banks).reshape(pack.rows, pack.banks)
    added = len(row) // pack.banks
    if (counts.sum(axis=1) != added * pack.per_row).any() or (counts.sum(axis=0) != added).any():
        raise PatternError(
            f"{where}: {pack.name} needs as many weights in each of {pack.rows} rows, and of each column remainder "
            f"modulo {pack.banks}; got {counts.sum(axis=1).tolist()} and {counts.sum(axis=0).tolist()} "
            "(choose masks with nested_sparse.pack_choice)"
        )
    banks = _matchings(_slots(counts, pack), added)  # (n, B) remainder at each lane
    wanted = np.arange(pack.banks) // pack.per_row * pack.banks + banks  # the cell at each lane
    columns = np.empty(wanted.size, np.int64)
    columns[np.argsort(wanted.reshape(-1), kind="stable")] = column[np.argsort(cell, kind="stable")]
    return columns.reshape(wanted.shape)


def _slots(counts: NDArray[np.int64], pack: Pack) -> NDArray[np.int64]:
    """(B, B) the counts of each row (n·k in all) cut into k slots of n each."""
    added = counts.sum(axis=0)[0]
    ends = np.cumsum(counts, axis=1)[:, None, :]
    begins = ends - counts[:, None, :]
    first = (np.arange(pack.per_row) * added)[None, :, None]
    overlap = np.minimum(ends, first + added) - np.maximum(begins, first)
    return np.asarray(np.maximum(overlap, 0).reshape(pack.banks, pack.banks))


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
