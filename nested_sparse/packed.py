"""Packed weights: the arrays the kernels read, one set per level (FORMAT.md, "Packed layer")."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MAX_COLUMNS_U16 = 65536


def index_dtype(columns: int) -> np.dtype[np.unsignedinteger]:
    """uint16 where every column fits, else uint32."""
    return np.dtype("<u2") if columns <= MAX_COLUMNS_U16 else np.dtype("<u4")


@dataclass(frozen=True, slots=True)
class PackedLevel:
    """The n blocks that one level adds to the levels below it, each with C columns and V values (see layouts.Layout).

    ptr: (G + 1,) uint32, blocks of row group g are ptr[g] to ptr[g + 1] - 1.
    col: (n, C) uint16 or uint32, columns of each block.
    val: (n, V) float32, values of each block: in packed row order, or one for each column of a gather group.
    """

    ptr: NDArray[np.uint32]
    col: NDArray[np.unsignedinteger]
    val: NDArray[np.float32]
