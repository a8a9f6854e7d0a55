"""Quads: the form in which int8 layers are stored, any four columns of a row group side by side.

Dot-product instructions multiply four neighbouring bytes of each operand and add the products. A quad gives them four
weights of each of V rows, whose four columns need not be neighbours (FORMAT.md, "Quads").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import CheckpointError, PatternError
from .base import Cells, Layout
from .blocks import Blocks

QUAD = 4
"""Columns of a quad."""
MOST_ROWS = 16
"""Rows that a block of an int8 layer may have: the kernels of int8 are built for these."""


@dataclass(frozen=True, slots=True)
class Quads(Blocks):
    """V × 1 blocks in quads: in each level and row group, columns rise, and every four of them are a quad.

    Where their number is no multiple of four, the group's last column is repeated with weights of zero. It is no
    pattern of its own: a layer is pruned by one of PATTERNS, and stored in quads where its values are int8.
    Raises PatternError.
    """

    def __post_init__(self) -> None:
        """Check V."""
        super(Quads, self).__post_init__()
        if self.block_rows > MOST_ROWS:
            raise PatternError(
                f"int8 layers have blocks of at most {MOST_ROWS} rows, got {self.block_rows}; choose pattern "
                f"block{MOST_ROWS}x1, or float16 or float32 values"
            )

    @property
    def format_version(self) -> int:
        """4."""
        return 4

    @property
    def block_columns(self) -> int:
        """4."""
        return QUAD

    @property
    def block_values(self) -> int:
        """4 of each row."""
        return QUAD * self.block_rows

    @classmethod
    def every(cls) -> Sequence[Layout]:
        """None: no layer is pruned by quads."""
        return ()

    def block_count(self, first_level: NDArray[np.uint8], level: int) -> int:
        """Number of quads that `level` adds."""
        return int(_quad_counts((first_level == level).sum(axis=1)).sum())

    def most_blocks(self, rows: int, columns: int) -> int:
        """A quad for each column: many levels may add one column each, and fill a quad for it."""
        return self.group_count(rows) * columns

    def blocks_of(self, added: NDArray[np.bool_], where: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Columns ascend within a row group; its last column fills its last quad."""
        column, count = np.nonzero(added)[1], added.sum(axis=1)
        group = np.repeat(np.arange(len(added)), _quad_counts(count))
        place = QUAD * _places(group)[:, None] + np.arange(QUAD)  # among the columns of the group
        first = np.cumsum(count) - count
        return group, column[first[group][:, None] + np.minimum(place, count[group][:, None] - 1)]

    def cells(self, group: NDArray[np.int64], col: NDArray[Any]) -> Cells:
        """All rows of the group; the columns that fill a quad are left out."""
        own = self.own(group, col)
        return np.repeat(group, QUAD)[own.reshape(-1)], slice(None), col[own]

    def own(self, group: NDArray[np.int64], col: NDArray[Any]) -> NDArray[np.bool_]:
        """(n, 4) mask of the columns that do not just repeat the one before them to fill a quad."""
        key = _keys(group, col)
        return np.concatenate([key[:1] >= 0, np.diff(key) != 0]).reshape(-1, QUAD)

    def block_weights(
        self, weights: NDArray[np.float32], group: NDArray[np.int64], col: NDArray[Any]
    ) -> NDArray[np.float32]:
        """Row after row of a quad, zero in the columns that fill it."""
        quads = weights[group[:, None, None], np.arange(self.block_rows)[:, None], col[:, None, :]]  # (n, V, 4)
        return np.where(self.own(group, col)[:, None, :], quads, np.float32(0)).reshape(-1, self.block_values)

    def cell_weights(self, val: NDArray[np.float32], group: NDArray[np.int64], col: NDArray[Any]) -> NDArray[Any]:
        """(cells, V): those of the columns that fill a quad are left out."""
        return val.reshape(-1, self.block_rows, QUAD).transpose(0, 2, 1)[self.own(group, col)]

    def check_blocks(self, group: NDArray[np.int64], col: NDArray[np.int64], where: str) -> None:
        """Columns rise; only the last quad of a group is filled."""
        key, own = _keys(group, col), self.own(group, col)
        last = np.append(np.diff(group) != 0, True)[: len(group), None]
        rises = (np.diff(key) >= 0).all() and not (own[:, 1:] & ~own[:, :-1]).any()
        if not rises or not (own | last).all() or not own[:, 0].all():
            raise CheckpointError(
                f"{where}: columns must rise within a row group, and only its last may be repeated to fill the last "
                "quad; the file is damaged"
            )

    def check_values(self, group: NDArray[np.int64], col: NDArray[np.int64], val: NDArray[np.int8], where: str) -> None:
        """Check the values (n · 4 · V) of these quads. Raises CheckpointError."""
        quads = val.reshape(-1, self.block_rows, QUAD)
        if (val == np.iinfo(np.int8).min).any() or quads.transpose(0, 2, 1)[~self.own(group, col)].any():
            raise CheckpointError(
                f"{where}: values must lie in -127 to 127, and be 0 in columns that fill a quad; the file is damaged"
            )


def _quad_counts(columns: NDArray[np.int64]) -> NDArray[np.int64]:
    return -(-columns // QUAD)


def _places(group: NDArray[np.int64]) -> NDArray[np.int64]:
    """Place of each quad within its group, from 0; `group` rises."""
    return np.arange(group.size) - np.searchsorted(group, group)


def _keys(group: NDArray[np.int64], col: NDArray[Any]) -> NDArray[np.int64]:
    """One number for each (group, column), in order."""
    return (group[:, None] << 32 | col.astype(np.int64)).reshape(-1)
