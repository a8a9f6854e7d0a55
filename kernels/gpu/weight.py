"""Weight: one layer's weight with all its levels, as it lies in a GPU's memory."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from nested_sparse.errors import InputError, LevelError, PatternError
from nested_sparse.packed import PackedLevel

BLOCK_ROWS = (32, 64, 128)
"""V for which the GPU's kernels are built: fewer rows leave most of a tensor core's work idle."""
DTYPES = (torch.float16, torch.bfloat16, torch.float32)
"""Types of values and inputs. Sums are always float32; products of float32 are exact, and slow: for comparisons."""
SPARE = 256
"""Blocks of zeros stored behind the last one: two steps of the most columns, which the loop reads ahead."""


@dataclass(frozen=True, slots=True)
class GpuWeight:
    """An (O, K) weight of V × 1 blocks on a device, all levels in one set of arrays.

    The file holds each level's blocks apart (FORMAT.md). Here the blocks of a row group lie together, those of level 0
    first, then those that level 1 adds, and so on. So the blocks of level L in a group are the prefix
    begin[g] to end[L, g] - 1: one loop without a seam between levels, and a level is nothing but another end.

    rows: O. inputs: K, times the groups of a convolution's channels. block_rows: V.
    col: (n + 256,) int32, column of each block, groups of a convolution's channels counted in.
    val: (n + 256, V) values, block after block; the last 256 of both are zeros, which a step may read.
    begin: (G,) int32. end: (L, G) int32. norm: (L, 2, G·V) float32, scale and shift in packed row order.
    out_row: (G·V,) int32, output channel of each packed row; -1 for padding.
    levels: a 0-dimensional int32 tensor for each level, for callers that give the level as a number.
    """

    rows: int
    inputs: int
    block_rows: int
    col: torch.Tensor
    val: torch.Tensor
    begin: torch.Tensor
    end: torch.Tensor
    norm: torch.Tensor
    out_row: torch.Tensor
    levels: tuple[torch.Tensor, ...]

    @classmethod
    def of(
        cls,
        levels: Sequence[PackedLevel],
        norms: NDArray[np.float32],
        columns: int,
        *,
        permutation: NDArray[np.int32] | None = None,
        channel_groups: int = 1,
        dtype: torch.dtype = torch.float16,
        device: torch.device | str = "cuda",
    ) -> GpuWeight:
        """The weight with these levels, copied to `device` once; nothing is copied when it is used.

        levels: what each level adds, as `nested_sparse.packing.pack` makes it of `Checkpoint.load_layer`'s weight.
        norms: (L, 2, O) float32, scale and shift of each level in output-channel order, as `load_layer` gives them.
        columns: K of one row. permutation: (O,) packed row r is output channel permutation[r]; None for r itself.
        channel_groups: groups of a convolution; blocks of group j read inputs j·K to (j + 1)·K - 1.

        Raises PatternError where V is not one of BLOCK_ROWS or a block has rows of two groups of channels, InputError
        where arrays do not fit together or a value is too large for `dtype`.
        """
        if dtype not in DTYPES:
            raise InputError(f"dtype must be one of {', '.join(map(str, DTYPES))}, got {dtype}")
        rows, block_rows = _checked_shapes(levels, norms)
        out_row = _output_rows(rows, block_rows, permutation)
        groups = len(out_row) // block_rows
        first_column = columns * _channel_group(out_row.reshape(groups, block_rows), rows, channel_groups)
        counts = np.array([np.diff(level.ptr.astype(np.int64)) for level in levels])  # (L, G)
        group = np.concatenate([np.repeat(np.arange(groups), count) for count in counts])
        order = np.argsort(group, kind="stable")  # stable: within a group, level after level
        col = np.concatenate([level.col.reshape(-1).astype(np.int64) for level in levels]) + first_column[group]
        val = np.concatenate([level.val.reshape(-1, block_rows).astype(np.float32) for level in levels])
        begin = np.cumsum(counts.sum(0)) - counts.sum(0)
        norm = np.zeros((len(levels), 2, len(out_row)), np.float32)
        norm[:, :, out_row >= 0] = norms[:, :, out_row[out_row >= 0]]
        return cls(
            rows,
            columns * channel_groups,
            block_rows,
            _on(device, np.append(col[order], np.zeros(SPARE, np.int64)), torch.int32),
            _finite(_on(device, np.append(val[order], np.zeros((SPARE, block_rows), np.float32), 0), dtype)),
            _on(device, begin, torch.int32),
            _on(device, begin + counts.cumsum(0), torch.int32),
            _on(device, norm, torch.float32),
            _on(device, out_row, torch.int32),
            tuple(_on(device, np.array(level), torch.int32) for level in range(len(levels))),
        )

    @property
    def groups(self) -> int:
        """G, row groups."""
        return len(self.begin)

    @property
    def nbytes(self) -> int:
        """Bytes on the device."""
        arrays = (self.col, self.val, self.begin, self.end, self.norm, self.out_row, *self.levels)
        return sum(array.numel() * array.element_size() for array in arrays)

    def level(self, level: int | torch.Tensor) -> torch.Tensor:
        """The tensor on the device that a kernel reads the level from; a tensor is taken as it is.

        A tensor's value may change at any time, also between two layers of one inference. A kernel takes a value below
        0 for 0, and one above the densest level for that.

        Raises LevelError and, for a tensor of another kind, InputError.
        """
        if isinstance(level, torch.Tensor):
            if level.numel() != 1 or level.dtype != torch.int32 or level.device != self.col.device:
                got = f"{level.dtype} {tuple(level.shape)} on {level.device}"
                raise InputError(f"level must be one int32 on {self.col.device}, got {got}")
            return level
        index = operator.index(level)
        if not 0 <= index < len(self.levels):
            raise LevelError(f"level {index} is out of range 0 to {len(self.levels) - 1}")
        return self.levels[index]


def _checked_shapes(levels: Sequence[PackedLevel], norms: NDArray[np.float32]) -> tuple[int, int]:
    """Rows of the weight, and V. Raises as `GpuWeight.of` does."""
    if not levels or norms.ndim != 3 or norms.shape[:2] != (len(levels), 2):
        raise InputError(f"norms must be ({len(levels)}, 2, rows) for {len(levels)} levels, got {norms.shape}")
    rows, block_rows = norms.shape[2], levels[0].val.shape[-1]
    if block_rows not in BLOCK_ROWS:
        names = ", ".join(f"block{each}x1" for each in BLOCK_ROWS)
        raise PatternError(f"blocks of {block_rows} rows do not run on a GPU; train the model with one of {names}")
    groups = -(-rows // block_rows)
    for index, level in enumerate(levels):
        if len(level.ptr) != groups + 1 or level.col.size != len(level.val) or level.ptr[-1] != len(level.val):
            got = f"{len(level.ptr)} pointers, {level.col.size} columns, {len(level.val)} blocks"
            raise InputError(f"level {index} must have {groups + 1} pointers and a column for each block, got {got}")
    return rows, block_rows


def _output_rows(rows: int, block_rows: int, permutation: NDArray[np.int32] | None) -> NDArray[np.int64]:
    out_row = np.full(-(-rows // block_rows) * block_rows, -1)
    out_row[:rows] = np.arange(rows) if permutation is None else permutation
    if not np.array_equal(np.sort(out_row[:rows]), np.arange(rows)):
        raise InputError(f"permutation must hold each of 0 to {rows - 1} once")
    return out_row


def _channel_group(out_row: NDArray[np.int64], rows: int, channel_groups: int) -> NDArray[np.int64]:
    """(G,) group of channels of each row group, whose output rows are `out_row` (G, V)."""
    of_row = np.where(out_row < 0, out_row[:, :1], out_row) * channel_groups // rows
    if (of_row != of_row[:, :1]).any():
        raise PatternError(f"a block has rows of two of {channel_groups} groups of channels; use smaller blocks")
    return of_row[:, 0]


def _on(device: torch.device | str, array: NDArray[np.number], dtype: torch.dtype) -> torch.Tensor:
    return torch.from_numpy(array).to(dtype).to(device)


def _finite(values: torch.Tensor) -> torch.Tensor:
    """The values themselves. A step multiplies blocks past its end by 0, which gives 0 only for finite ones."""
    if not bool(torch.isfinite(values).all()):
        raise InputError(f"a value is not finite in {values.dtype}; use torch.bfloat16 for values above 65504")
    return values
