"""Packed weights: the arrays the kernels read, one set per level (FORMAT.md, "Packed layer")."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .mask import NEVER, grouped
from .packs import packs_of_bundle
from .pattern import Pack, Pattern
from .weight import NestedWeight

MAX_COLUMNS_U16 = 65536


def index_dtype(columns: int) -> np.dtype[np.unsignedinteger]:
    """uint16 where every column fits, else uint32."""
    return np.dtype("<u2") if columns <= MAX_COLUMNS_U16 else np.dtype("<u4")


@dataclass(frozen=True, slots=True)
class PackedLevel:
    """What one level adds to the levels below it.

    ptr: (G + 1,) uint32, blocks (or packs) of group g are ptr[g] to ptr[g + 1] - 1.
    col: (n,) uint16 or uint32, column of each block, ascending within a group; with packs (n, B).
    val: (n, V) float32, values of each block in packed row order; with packs (n, B).
    """

    ptr: NDArray[np.uint32]
    col: NDArray[np.unsignedinteger]
    val: NDArray[np.float32]


def pack_level(weight: NestedWeight, level: int) -> PackedLevel:
    """The packed arrays of what `level` adds to `weight`. Raises PatternError where packs are not balanced."""
    if weight.pack is not None:
        return _pack_bundles(weight, weight.pack, level)
    group, column = np.nonzero(weight.first_level == level)
    ptr = np.zeros(weight.group_count + 1, np.uint32)
    np.cumsum(np.bincount(group, minlength=weight.group_count), out=ptr[1:])
    blocks = grouped(weight.values, weight.block_rows, weight.permutation)  # (G, V, K)
    val = np.ascontiguousarray(blocks[group, :, column], np.float32)
    return PackedLevel(ptr, column.astype(index_dtype(weight.columns)), val)


def _pack_bundles(weight: NestedWeight, shape: Pack, level: int) -> PackedLevel:
    added = (weight.first_level == level).reshape(weight.group_count, shape.rows, weight.columns)
    where = f"{weight.name!r} level {level}"
    columns = [packs_of_bundle(bundle, shape, f"{where} bundle {index}") for index, bundle in enumerate(added)]
    ptr = np.zeros(weight.group_count + 1, np.uint32)
    np.cumsum([len(packs) for packs in columns], out=ptr[1:])
    bundle, col = np.repeat(np.arange(weight.group_count), np.diff(ptr)), np.concatenate(columns)
    rows = np.arange(shape.banks) // shape.per_row
    bundles = grouped(weight.values, shape.rows, weight.permutation)
    val = np.ascontiguousarray(bundles[bundle[:, None], rows, col], np.float32)
    return PackedLevel(ptr, col.astype(index_dtype(weight.columns)), val)


def pack(weight: NestedWeight, level_count: int) -> list[PackedLevel]:
    """The packed arrays of `weight`, one entry per level."""
    return [pack_level(weight, level) for level in range(level_count)]


def unpack(
    name: str,
    rows: int,
    columns: int,
    pattern: Pattern,
    levels: list[PackedLevel],
    permutation: NDArray[np.int32] | None,
) -> NestedWeight:
    """The NestedWeight that `pack` made these arrays from, values outside every level being zero."""
    groups = levels[0].ptr.size - 1
    blocks = np.zeros((groups, pattern.group_rows, columns), np.float32)
    shape = (groups, columns) if pattern.pack is None else (groups, pattern.group_rows, columns)
    first_level = np.full(shape, NEVER, np.uint8)
    for index, level in enumerate(levels):
        group = np.repeat(np.arange(groups), level.ptr[1:] - level.ptr[:-1])
        if pattern.pack is None:
            blocks[group, :, level.col] = level.val
            first_level[group, level.col] = index
        else:
            row = np.arange(pattern.pack.banks) // pattern.pack.per_row
            blocks[group[:, None], row, level.col] = level.val
            first_level[group[:, None], row, level.col] = index
    packed_rows = blocks.reshape(-1, columns)[:rows]
    values = packed_rows
    if permutation is not None:
        values = np.empty_like(packed_rows)
        values[permutation] = packed_rows
    first_level = first_level.reshape(-1, columns)
    return NestedWeight(name, values, first_level, pattern.block_rows, permutation, pattern.pack)
