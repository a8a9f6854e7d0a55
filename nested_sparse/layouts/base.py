"""Layout: the pattern of a layer, with the choice of its weights and their form in the file."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ..budget import LayerSize
from ..errors import PatternError
from ..mask import NEVER, group_count
from ..packed import PackedLevel, index_dtype

Cells = tuple[Any, Any, Any]
"""Index of the cells of some blocks in a (G, …, K) array."""


class Layout(ABC):
    """One pattern: the weights that it keeps or drops together, how it chooses them, and how the arrays hold them.

    Two layouts of the same pattern and sizes are equal. Arrays are in packed row order (see NestedWeight).
    A *block* is the smallest part that a level can add to a layer: V × 1 weights, or the B weights of a gather group.
    A *cell* is the part of a block that lies in one column; `first_level` has an entry for each cell.

    excludable: whether single cells can be kept out of every level, as torch.nn.utils.prune asks for.
    whole_channels: whether rows and input channels are kept or dropped as a whole, in all layers that share them.
    """

    __slots__ = ()

    excludable: ClassVar[bool] = False
    whole_channels: ClassVar[bool] = False

    @property
    def format_version(self) -> int:
        """The first version of the file format that has this layout."""
        return 1

    @property
    def block_rows(self) -> int:
        """V, the rows of a cell."""
        return 1

    @property
    def group_rows(self) -> int:
        """Rows of a row group, which share a row pointer."""
        return self.block_rows

    @property
    def block_columns(self) -> int:
        """Columns that a block names."""
        return 1

    @property
    def block_values(self) -> int:
        """Weights that a block holds."""
        return self.block_rows

    @property
    def banks(self) -> int:
        """Attribute of the operators: B of gs{B}x{k}, 0 for blocks."""
        return 0

    @property
    def per_row(self) -> int:
        """Attribute of the operators: k of gs{B}x{k}, 0 for blocks."""
        return 0

    @property
    def row_step(self) -> int:
        """Rows that a level keeps or drops together, wherever they lie."""
        return 1

    @property
    @abstractmethod
    def name(self) -> str:
        """Name of the pattern."""

    @property
    def label(self) -> str:
        """Short name, for the column of a table."""
        return self.name

    @classmethod
    @abstractmethod
    def every(cls) -> Sequence[Layout]:
        """All layouts of this kind that the kernels are built for."""

    @classmethod
    def advice(cls, name: str) -> str:
        """Reason why `name` is not a pattern, where it looks like a name of this kind; else ""."""
        return ""

    # Choosing

    @abstractmethod
    def first_level(self, scores: NDArray[np.float64], counts: Sequence[int], taps: int) -> NDArray[np.uint8]:
        """First level of every cell, from (G·group_rows / V, K) scores; (O, K) where cells are single weights.

        Level l keeps `counts[l]` cells, or the number nearest to it that the pattern can keep.
        taps: weights of one row for each input channel.
        """

    def size(self, dimensions: tuple[int, ...], allowed: int | None) -> LayerSize:
        """Facts that a budget needs of a layer.

        dimensions: shape of the weight. allowed: number of cells that are not excluded, None for all.
        """
        return LayerSize(dimensions, self.block_rows, allowed)

    def most_weights(self, rows: int, columns: int) -> int:
        """Most weights of an (O, K) weight that a level can keep."""
        return rows * columns

    def fitted(self, rows: int, groups: int, row_step: int) -> Layout:
        """The layout of this pattern that fits one layer.

        rows: rows of the layer. groups: equal groups of its rows. Rows of different groups read different inputs, so no
            block may hold rows of two groups.
        row_step: block rows that suit the kernels of the layer's operator.
        """
        return self

    @property
    def in_blocks(self) -> Layout:
        """The layout in its place where an operator takes no gather groups."""
        return self

    # Counting

    def group_count(self, rows: int) -> int:
        """G, row groups; the last may be partly padding."""
        return group_count(rows, self.group_rows)

    def cells_shape(self, rows: int, columns: int) -> tuple[int, int]:
        """Shape of `first_level` for an (O, K) weight."""
        return self.group_count(rows) * self.group_rows // self.block_rows, columns

    def block_count(self, first_level: NDArray[np.uint8], level: int) -> int:
        """Number of blocks that `level` adds."""
        return int((first_level == level).sum()) // self.block_columns

    def most_blocks(self, rows: int, columns: int) -> int:
        """Number of blocks of a whole (O, K) weight."""
        return self.group_count(rows) * columns

    # Packing

    def stored(
        self, first_level: NDArray[np.uint8], permutation: NDArray[np.int32] | None, where: str
    ) -> tuple[Layout, NDArray[np.uint8], NDArray[np.int32] | None]:
        """Layout, first levels and row permutation with which a checkpoint holds these first levels.

        where: name of the weight, for errors. Raises PatternError where this pattern cannot have chosen them.
        """
        return self, first_level, permutation

    def stored_in(self, block_rows: int) -> Layout:
        """The layout of a stored layer of this pattern with these `block_rows` in its metadata. Raises PatternError."""
        if block_rows != self.block_rows:
            raise PatternError(f"pattern '{self.name}' does not go with block_rows {block_rows}")
        return self

    @abstractmethod
    def blocks_of(self, added: NDArray[np.bool_], where: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(n,) row group and (n, block_columns) columns of the blocks made of the cells `added` (cells, K).

        The blocks are in order of their row groups. where: weight and level, for errors.
        Raises PatternError where the cells do not form blocks.
        """

    @abstractmethod
    def cells(self, group: NDArray[np.int64], col: NDArray[Any]) -> Cells:
        """Index of these blocks in an array (G, group_rows, K) of weights, or (G, group_rows / V, K) of cells."""

    def pack(self, weights: NDArray[np.float32], added: NDArray[np.bool_], where: str) -> PackedLevel:
        """The arrays of one level, which adds the cells `added` (cells, K) of `weights` (G, group_rows, K).

        Raises PatternError as `blocks_of` does.
        """
        group, col = self.blocks_of(added, where)
        ptr = np.zeros(len(weights) + 1, np.uint32)
        np.cumsum(np.bincount(group, minlength=len(weights)), out=ptr[1:])
        val = np.ascontiguousarray(self.block_weights(weights, group, col), np.float32)
        return PackedLevel(ptr, col.astype(index_dtype(weights.shape[2])), val)

    def block_weights(
        self, weights: NDArray[np.float32], group: NDArray[np.int64], col: NDArray[Any]
    ) -> NDArray[np.float32]:
        """(n, block_values) values of blocks as the arrays hold them, from (G, group_rows, K) weights."""
        return weights[self.cells(group, col)]

    def cell_weights(self, val: NDArray[np.float32], group: NDArray[np.int64], col: NDArray[Any]) -> NDArray[Any]:
        """(n, block_values) values of blocks, in the order of `cells(group, col)`."""
        return val

    def unpack(self, levels: Sequence[PackedLevel], columns: int) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        """(G·group_rows, K) weights, zero outside every level, and (cells, K) first levels, from all levels."""
        groups = levels[0].ptr.size - 1
        weights = np.zeros((groups, self.group_rows, columns), np.float32)
        first_level = np.full((groups, self.group_rows // self.block_rows, columns), NEVER, np.uint8)
        for index, level in enumerate(levels):
            group = np.repeat(np.arange(groups), level.ptr[1:] - level.ptr[:-1])
            col = level.col.reshape(-1, self.block_columns)
            cells = self.cells(group, col)
            weights[cells] = self.cell_weights(level.val.reshape(-1, self.block_values), group, col)
            first_level[cells] = index
        return weights.reshape(-1, columns), first_level.reshape(-1, columns)

    # Checking

    @abstractmethod
    def check_blocks(self, group: NDArray[np.int64], col: NDArray[np.int64], where: str) -> None:
        """Check the blocks that one level of a file adds, whose columns (n, block_columns) are in range.

        where: file, layer and level, for errors. Raises CheckpointError.
        """
