"""Blocks: V consecutive rows in one column are kept or dropped together.

One row (V = 1) is unstructured sparsity; V × 1 blocks are the vector-wise pattern of Shfl-BW, arXiv:2203.05016.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ..errors import CheckpointError, PatternError
from ..mask import nested_first_level
from .base import Cells, Layout

BLOCK_ROWS = (1, 2, 4, 8, 16, 32, 64, 128)
"""Rows that a block may have: the kernels are built for these. More than 16 are for GPUs, whose tensor cores multiply
tiles of that height; a CPU computes such a block as several of 16 rows that share its column.
"""
HIGH_BLOCKS_VERSION = 6
"""Version of the file format that has blocks of more than 16 rows."""


@dataclass(frozen=True, slots=True)
class Blocks(Layout):
    """V × 1 blocks, V = `block_rows` one of BLOCK_ROWS; a row group is the V rows of a block. Raises PatternError."""

    excludable: ClassVar[bool] = True

    block_rows: int = field()

    def __post_init__(self) -> None:
        """Check V."""
        if self.block_rows not in BLOCK_ROWS:
            raise PatternError(f"block_rows must be one of {BLOCK_ROWS}, got {self.block_rows}")

    @property
    def format_version(self) -> int:
        """1, or that of blocks of more than 16 rows."""
        return 1 if self.block_rows <= 16 else HIGH_BLOCKS_VERSION

    @property
    def name(self) -> str:
        """unstructured, or block{V}x1."""
        return "unstructured" if self.block_rows == 1 else f"block{self.block_rows}x1"

    @property
    def label(self) -> str:
        """{V}x1."""
        return f"{self.block_rows}x1"

    @classmethod
    def every(cls) -> Sequence[Layout]:
        """One for each V."""
        return tuple(map(Blocks, BLOCK_ROWS))

    def first_level(self, scores: NDArray[np.float64], counts: Sequence[int], taps: int) -> NDArray[np.uint8]:
        """The best scores."""
        return nested_first_level(scores, counts)

    def fitted(self, rows: int, groups: int, row_step: int) -> Layout:
        """The largest blocks, no larger than these, that fill each group of rows."""
        part = rows // groups
        if groups == 1 or part % self.block_rows == 0:
            return self
        return Blocks(max(v for v in BLOCK_ROWS if v < self.block_rows and part % v == 0))

    def blocks_of(self, added: NDArray[np.bool_], where: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Each cell is a block; columns ascend within a row group."""
        group, column = np.nonzero(added)
        return group, column[:, None]

    def cells(self, group: NDArray[np.int64], col: NDArray[Any]) -> Cells:
        """All rows of the group."""
        return group, slice(None), col[:, 0]

    def check_blocks(self, group: NDArray[np.int64], col: NDArray[np.int64], where: str) -> None:
        """Columns rise."""
        if (np.diff(group << 32 | col[:, 0]) <= 0).any():
            raise CheckpointError(f"{where}: columns must rise within a row group; the file is damaged")
