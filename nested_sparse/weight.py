"""NestedWeight: one weight matrix with every level in it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .errors import PatternError
from .excerpt import excerpt
from .mask import NEVER, group_count
from .pattern import BLOCK_ROWS, Pack, Pattern, block_pattern, parse_pattern


@dataclass(frozen=True, slots=True)
class NestedWeight:
    """One weight of `rows` output channels by `columns` inputs, every level in it.

    values: (O, K) float32, the values of the densest level; what no level keeps is ignored.
    first_level: (G, K) uint8, the lowest level that keeps each V × 1 block, NEVER where none does. With packs
        (O', K), of each weight, O' being O made a multiple of the bundle's rows.
    block_rows: V. Row group g holds packed rows g·V to g·V + V - 1. 1 with packs, whose row groups are the bundles.
    permutation: (O,) int32 or None; packed row r is output channel permutation[r]. One per layer, shared by its levels.
    pack: how the weights are packed, None for blocks. That every level is balanced is checked when it is packed.

    Membership is explicit, never "value ≠ 0", so mask(i) ⊆ mask(i + 1) whatever the values. Raises PatternError.
    """

    name: str
    values: NDArray[np.float32]
    first_level: NDArray[np.uint8]
    block_rows: int
    permutation: NDArray[np.int32] | None = None
    pack: Pack | None = None

    def __post_init__(self) -> None:
        """Check that shapes and dtypes fit together."""
        if self.block_rows not in BLOCK_ROWS:
            raise PatternError(f"'{excerpt(self.name)}': block_rows must be one of {BLOCK_ROWS}, got {self.block_rows}")
        if self.pack is not None and self.block_rows != 1:
            raise PatternError(
                f"'{excerpt(self.name)}': block_rows must be 1 with {self.pack.name}, got {self.block_rows}"
            )
        if self.values.ndim != 2 or 0 in self.values.shape or self.values.dtype != np.float32:
            raise PatternError(
                f"'{excerpt(self.name)}': values must be float32 (O, K), got {self.values.dtype} {self.values.shape}"
            )
        expected = (self.packed_rows // self.block_rows, self.columns)
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
        """G, row groups: blocks of V rows, or bundles."""
        return group_count(self.rows, self.group_rows)

    @property
    def group_rows(self) -> int:
        """Rows of a group."""
        return self.block_rows if self.pack is None else self.pack.rows

    @property
    def packed_rows(self) -> int:
        """Rows with those of padding."""
        return self.group_count * self.group_rows

    @property
    def pattern(self) -> Pattern:
        """What the arrays are laid out for."""
        return block_pattern(self.block_rows) if self.pack is None else parse_pattern(self.pack.name)

    def mask(self, level: int) -> NDArray[np.bool_]:
        """(O, K) which weights `level` keeps."""
        kept = np.repeat((self.first_level <= level) & (self.first_level != NEVER), self.block_rows, axis=0)[
            : self.rows
        ]
        if self.permutation is None:
            return kept
        ordered = np.empty_like(kept)
        ordered[self.permutation] = kept
        return ordered

    def at(self, level: int) -> NDArray[np.float32]:
        """(O, K) the dense weight of `level`, zeros where it keeps nothing."""
        return np.where(self.mask(level), self.values, np.float32(0))

    def nnz(self, level: int) -> int:
        """Weights that `level` keeps (rows of padding not counted)."""
        return int(self.mask(level).sum())
