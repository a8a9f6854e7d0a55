"""Packed weights: the arrays the kernels read, one set per level (FORMAT.md, "Packed layer")."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nested_sparse.mask import NEVER, grouped
from nested_sparse.weight import NestedWeight

MAX_COLUMNS_U16 = 65536


def index_dtype(columns: int) -> np.dtype[np.unsignedinteger]:
    """uint16 where every column fits, else uint32."""
    return np.dtype("<u2") if columns <= MAX_COLUMNS_U16 else np.dtype("<u4")


@dataclass(frozen=True, slots=True)
class PackedLevel:
    """What one level adds to the levels below it.

    ptr: (G + 1,) uint32, blocks of group g are ptr[g] to ptr[g + 1] - 1.
    col: (n,) uint16 or uint32, column of each block, ascending within a group.
    val: (n, V) float32, values of each block in packed row order.
    """

    ptr: NDArray[np.uint32]
    col: NDArray[np.unsignedinteger]
    val: NDArray[np.float32]


def pack_level(weight: NestedWeight, level: int) -> PackedLevel:
    """The packed arrays of what `level` adds to `weight`."""
    group, column = np.nonzero(weight.first_level == level)
    ptr = np.zeros(weight.group_count + 1, np.uint32)
    np.cumsum(np.bincount(group, minlength=weight.group_count), out=ptr[1:])
    blocks = grouped(weight.values, weight.block_rows, weight.permutation)  # (G, V, K)
    val = np.ascontiguousarray(blocks[group, :, column], np.float32)
    return PackedLevel(ptr, column.astype(index_dtype(weight.columns)), val)


def pack(weight: NestedWeight, level_count: int) -> list[PackedLevel]:
    """The packed arrays of `weight`, one entry per level."""
    return [pack_level(weight, level) for level in range(level_count)]


def unpack(
    name: str,
    rows: int,
    columns: int,
    block_rows: int,
    levels: list[PackedLevel],
    permutation: NDArray[np.int32] | None,
) -> NestedWeight:
    """The NestedWeight that `pack` made these arrays from, values outside every level being zero."""
    groups = levels[0].ptr.size - 1
    blocks = np.zeros((groups, block_rows, columns), np.float32)
    first_level = np.full((groups, columns), NEVER, np.uint8)
    for index, level in enumerate(levels):
        group = np.repeat(np.arange(groups), level.ptr[1:] - level.ptr[:-1])
        blocks[group, :, level.col] = level.val
        first_level[group, level.col] = index
    packed_rows = blocks.reshape(groups * block_rows, columns)[:rows]
    values = packed_rows
    if permutation is not None:
        values = np.empty_like(packed_rows)
        values[permutation] = packed_rows
    return NestedWeight(name, values, first_level, block_rows, permutation)
