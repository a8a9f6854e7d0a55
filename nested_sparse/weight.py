"""NestedWeight: one weight matrix with all its levels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .errors import PatternError
from .excerpt import excerpt
from .layouts import Layout
from .mask import NEVER


@dataclass(frozen=True, slots=True)
class NestedWeight:
    """One weight of `rows` output channels by `columns` inputs, with all its levels.

    values: (O, K) float32, the values of the densest level; a value that no level keeps is ignored.
    first_level: uint8, the lowest level that keeps each cell of the layout, NEVER where none does: (G, K) of V × 1
        blocks, (O', K) of the single weights of gather groups, O' being O made a multiple of the rows of a bundle.
    layout: the pattern of the weight. The balance of gather groups is checked when the weight is packed.
    permutation: (O,) int32 or None; packed row r is output channel permutation[r]. All levels of a layer share it.
        Row group g holds packed rows g·R to g·R + R - 1, R being the layout's `group_rows`.

    A level keeps a weight because of `first_level`, never because its value is not 0. So mask(i) ⊆ mask(i + 1) for all
    values. Raises PatternError.
    """

    name: str
    values: NDArray[np.float32]
    first_level: NDArray[np.uint8]
    layout: Layout
    permutation: NDArray[np.int32] | None = None

    def __post_init__(self) -> None:
        """Check that shapes and dtypes fit together."""
        if self.values.ndim != 2 or 0 in self.values.shape or self.values.dtype != np.float32:
            raise PatternError(
                f"'{excerpt(self.name)}': values must be float32 (O, K), got {self.values.dtype} {self.values.shape}"
            )
        expected = self.layout.cells_shape(self.rows, self.columns)
        if self.first_level.shape != expected or self.first_level.dtype != np.uint8:
            got = f"{self.first_level.dtype} {self.first_level.shape}"
            raise PatternError(f"'{excerpt(self.name)}': first_level must be uint8 {expected}, got {got}")
        if self.permutation is not None and not np.array_equal(np.sort(self.permutation), np.arange(self.rows)):
            raise PatternError(f"'{excerpt(self.name)}': permutation must hold each of 0 to {self.rows - 1} once")

    @property
    def rows(self) -> int:
        """O, output channels."""
        return int(self.values.shape[0])

    @property
    def columns(self) -> int:
        """K, inputs of one output."""
        return int(self.values.shape[1])

    @property
    def group_count(self) -> int:
        """G, row groups."""
        return self.layout.group_count(self.rows)

    @property
    def packed_rows(self) -> int:
        """Number of rows, those of padding included."""
        return self.group_count * self.layout.group_rows

    def mask(self, level: int) -> NDArray[np.bool_]:
        """(O, K) mask of the weights that `level` keeps."""
        cells = (self.first_level <= level) & (self.first_level != NEVER)
        kept = np.repeat(cells, self.layout.block_rows, axis=0)[: self.rows]
        if self.permutation is None:
            return kept
        ordered = np.empty_like(kept)
        ordered[self.permutation] = kept
        return ordered

    def at(self, level: int) -> NDArray[np.float32]:
        """(O, K) dense weight of `level`, zero where it keeps nothing."""
        return np.where(self.mask(level), self.values, np.float32(0))

    def nnz(self, level: int) -> int:
        """Number of weights that `level` keeps, without rows of padding."""
        return int(self.mask(level).sum())
