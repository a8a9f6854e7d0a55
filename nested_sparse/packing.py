"""Packing: the levels of a weight as the arrays that the kernels read, and back."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .layouts import Layout
from .mask import grouped
from .packed import PackedLevel
from .weight import NestedWeight


def pack_level(weight: NestedWeight, level: int) -> PackedLevel:
    """The packed arrays of the blocks that `level` adds to `weight`.

    Raises PatternError where the layout cannot hold it: gather groups that are not balanced.
    """
    weights = grouped(weight.values, weight.layout.group_rows, weight.permutation)
    return weight.layout.pack(weights, weight.first_level == level, f"{weight.name!r} level {level}")


def pack(weight: NestedWeight, level_count: int) -> list[PackedLevel]:
    """The packed arrays of `weight`, one entry per level."""
    return [pack_level(weight, level) for level in range(level_count)]


def unpack(
    name: str,
    rows: int,
    columns: int,
    layout: Layout,
    levels: Sequence[PackedLevel],
    permutation: NDArray[np.int32] | None,
) -> NestedWeight:
    """The NestedWeight that `pack` made these arrays from, values outside every level being zero."""
    weights, first_level = layout.unpack(levels, columns)
    values = weights[:rows]
    if permutation is not None:
        values = np.empty_like(weights[:rows])
        values[permutation] = weights[:rows]
    return NestedWeight(name, values, first_level, layout, permutation)
