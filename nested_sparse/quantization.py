"""Quantisation: the int8 weights of a layer, and the scale of each row (FORMAT.md, "Int8 layers").

    weight ≈ scale · q     q a whole number from -127 to 127

All levels share a row's scale, so a weight is the same at every level that keeps it.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from .layouts import Blocks, Quads
from .mask import NEVER, group_count
from .value_type import INT8
from .weight import NestedWeight

MAX_COLUMNS = 32768
"""Columns of an int8 layer, so that a sum of products of bytes stays below 2^30."""
LEAST_SCALE = float(np.finfo(np.float32).tiny)
"""Operators take smaller numbers for zero."""


def is_scale(scales: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Whether each is a scale to compute with: finite, and at least LEAST_SCALE."""
    return (scales >= LEAST_SCALE) & np.isfinite(scales)


def row_scales(weight: NestedWeight) -> NDArray[np.float32]:
    """(O,) float32 scale of each row: the largest magnitude of a weight that some level keeps, divided by 127.

    1 where all kept weights of the row are zero, or so small that the scale would be below LEAST_SCALE.
    """
    scales = np.abs(weight.at(NEVER - 1)).max(axis=1) / np.float32(INT8.largest)
    return np.where(is_scale(scales), scales, np.float32(1))


def quantised(weight: NestedWeight, scales: NDArray[np.float32]) -> NDArray[np.int8]:
    """(O, K) int8: the weights divided by their row's scale, rounded to nearest, ties to even; 0 where no level keeps.

    The division is float32's. scales: (O,), as of `row_scales`.
    """
    return INT8.stored(weight.at(NEVER - 1) / scales[:, None])


def in_quads(weight: NestedWeight, scales: NDArray[np.float32]) -> NestedWeight:
    """`weight` as an int8 layer is stored: in quads, its values the whole numbers of `quantised` as float32.

    A layer of gather groups has quads of single rows.
    """
    block_rows = weight.layout.block_rows
    return NestedWeight(
        weight.name,
        INT8.loaded(quantised(weight, scales)),
        weight.first_level[: group_count(weight.rows, block_rows)],
        Quads(block_rows),
        weight.permutation,
    )


def out_of_quads(weight: NestedWeight, scales: NDArray[np.float32]) -> NestedWeight:
    """The V × 1 blocks of weights q · scale that an int8 layer, as of `in_quads`, stands for."""
    values = weight.values * scales[:, None]
    return replace(weight, values=values, layout=Blocks(weight.layout.block_rows))
