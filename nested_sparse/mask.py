"""Mask: the blocks that each level keeps, chosen by scores.

Masks nest by construction: each block has a first level that keeps it, and all later levels keep it too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Scalar = TypeVar("Scalar", bound=np.generic)

NEVER = 255
"""Value of `first_level` for a block that no level keeps."""


def group_count(rows: int, block_rows: int) -> int:
    """Number of groups of `block_rows` rows; the last group may be partly padding."""
    return -(-rows // block_rows)


def grouped(values: NDArray[Scalar], block_rows: int, permutation: NDArray[np.int32] | None = None) -> NDArray[Scalar]:
    """(O, K) values as (G, V, K): rows in packed order, and zeros where the last group is padding."""
    rows, columns = values.shape
    ordered = values if permutation is None else values[permutation]
    groups = group_count(rows, block_rows)
    padded = np.zeros((groups * block_rows, columns), values.dtype)
    padded[:rows] = ordered
    return padded.reshape(groups, block_rows, columns)


def block_scores(
    values: NDArray[np.float32], block_rows: int, permutation: NDArray[np.int32] | None = None
) -> NDArray[np.float64]:
    """(G, K) scores of the blocks of an (O, K) weight: the sum of its magnitudes (Shfl-BW, arXiv:2203.05016)."""
    magnitudes = np.abs(grouped(values, block_rows, permutation))
    return np.asarray(magnitudes.sum(axis=1, dtype=np.float64))


def grow(first_level: NDArray[np.uint8], scores: NDArray[np.float64], level: int, keep: int) -> NDArray[np.uint8]:
    """Copy of `first_level` in which `keep` blocks belong to `level` or a lower one.

    All blocks of lower levels stay. The blocks with the best scores among those that no level keeps yet are added; of
    equal scores, the first in row order. This is the growth step of arXiv:2112.10930: budget = target - frozen.
    """
    grown = first_level.copy().reshape(-1)
    free = np.flatnonzero(grown == NEVER)
    missing = keep - (grown.size - free.size)
    if missing > 0:
        grown[free[best(scores.reshape(-1)[free], missing)]] = level
    return grown.reshape(first_level.shape)


def best(scores: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    """Places of the `count` best of `scores` (n,), of equal ones the first; NaN is worst. A sort takes ten times
    as long.
    """
    if count >= len(scores):
        return np.arange(len(scores))
    costs = np.where(np.isnan(scores), np.inf, -scores)
    most = np.partition(costs, count - 1)[count - 1]
    below, equal = np.flatnonzero(costs < most), np.flatnonzero(costs == most)
    return np.concatenate([below, equal[: count - len(below)]])


def nested_first_level(scores: NDArray[np.float64], keep: Sequence[int]) -> NDArray[np.uint8]:
    """(G, K) first level of every block, where level l keeps the `keep[l]` best scores; NEVER for the rest."""
    first_level = np.full(scores.shape, NEVER, np.uint8)
    for level, count in enumerate(keep):
        first_level = grow(first_level, scores, level, count)
    return first_level
