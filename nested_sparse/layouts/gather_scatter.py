"""Gather-scatter: weights are kept in gather groups, balanced over rows and memory banks (arXiv:2112.10898)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..budget import LayerSize
from ..errors import CheckpointError, PatternError
from ..excerpt import excerpt
from .base import Cells, Layout
from .blocks import Blocks
from .gather_choice import balanced_first_level
from .gather_dealing import gather_groups

BANKS = (8, 16)
"""Weights that a gather group may have: the kernels are built for these."""


@dataclass(frozen=True, slots=True)
class GatherScatter(Layout):
    """GS(B, k): weights are kept B = `banks` at a time, k = `per_row` of them in each of B / k rows.

    B / k consecutive packed rows are a *bundle*. B weights of a bundle, k in each row, are a *gather group*: their
    columns leave B different remainders modulo B, so that B memory banks answer one gather instruction at once. Every
    row of a bundle keeps equally many weights. A row group is a bundle, a block is a gather group, and a cell is a
    single weight. Raises PatternError.
    """

    banks: int = field()
    per_row: int = field()

    def __post_init__(self) -> None:
        """Check B and k."""
        if self.banks not in BANKS or self.per_row < 1 or self.banks % self.per_row:
            raise PatternError(_unsupported(f"gs{self.banks}x{self.per_row}"))

    @property
    def name(self) -> str:
        """gs{B}x{k}."""
        return f"gs{self.banks}x{self.per_row}"

    @property
    def format_version(self) -> int:
        """2."""
        return 2

    @property
    def in_blocks(self) -> Layout:
        """Blocks of four rows."""
        return Blocks(4)

    @property
    def group_rows(self) -> int:
        """B / k, the rows of a bundle."""
        return self.banks // self.per_row

    @property
    def block_columns(self) -> int:
        """B."""
        return self.banks

    @property
    def block_values(self) -> int:
        """B."""
        return self.banks

    @property
    def lane_rows(self) -> NDArray[np.int64]:
        """(B,) row of the bundle in which each weight of a gather group lies."""
        return np.arange(self.banks) // self.per_row

    @classmethod
    def every(cls) -> Sequence[Layout]:
        """One for each B and divisor k."""
        return tuple(GatherScatter(banks, k) for banks in BANKS for k in range(1, banks + 1) if banks % k == 0)

    @classmethod
    def advice(cls, name: str) -> str:
        """For a B or a k for which there are no kernels."""
        return _unsupported(name) if re.fullmatch(r"gs\d+x\d+", name) else ""

    def first_level(self, scores: NDArray[np.float64], counts: Sequence[int], taps: int) -> NDArray[np.uint8]:
        """The best scores that the balance allows, to the nearest gather group; O' rows make whole bundles."""
        return balanced_first_level(scores, counts, self)

    def size(self, dimensions: tuple[int, ...], allowed: int | None) -> LayerSize:
        """Weights are kept or dropped B at a time, and not all of them fit."""
        rows, columns = dimensions[0], int(np.prod(dimensions[1:]))
        return LayerSize(dimensions, most=self.most_weights(rows, columns), step=self.banks)

    def most_weights(self, rows: int, columns: int) -> int:
        """⌊K / B⌋·B of each row."""
        return rows * (columns // self.banks) * self.banks

    def most_blocks(self, rows: int, columns: int) -> int:
        """K / k gather groups of each bundle."""
        return self.group_count(rows) * (columns // self.per_row)

    def blocks_of(self, added: NDArray[np.bool_], where: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Any gather groups that hold the weights of each bundle."""
        bundles = added.reshape(-1, self.group_rows, added.shape[1])
        columns = [gather_groups(bundle, self, f"{where} bundle {index}") for index, bundle in enumerate(bundles)]
        return np.repeat(np.arange(len(bundles)), [len(groups) for groups in columns]), np.concatenate(columns)

    def cells(self, group: NDArray[np.int64], col: NDArray[Any]) -> Cells:
        """Weight i of a gather group lies in row i // k of its bundle."""
        return group[:, None], self.lane_rows, col

    def check_blocks(self, group: NDArray[np.int64], col: NDArray[np.int64], where: str) -> None:
        """The columns of a gather group leave B remainders; no weight comes twice."""
        remainders = np.sort(col % self.banks, axis=1)
        if (remainders != np.arange(self.banks)).any():
            raise CheckpointError(
                f"{where}: the columns of a gather group of {self.name} must leave {self.banks} different "
                f"remainders modulo {self.banks}; the file is damaged"
            )
        row = group[:, None] * self.group_rows + self.lane_rows
        if len(np.unique(row << 32 | col)) < col.size:
            raise CheckpointError(f"{where}: holds a weight twice; the file is damaged")


def _unsupported(name: str) -> str:
    return (
        f"pattern '{excerpt(name)}' is not supported: in gs{{B}}x{{k}}, B must be one of {BANKS} and k a divisor of B"
    )
