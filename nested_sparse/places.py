"""Places: the position of every tensor of a checkpoint (FORMAT.md, "Order of the bytes").

The order is a function of the metadata alone, so the writer, the reader and `slice` share it, and a reader can refuse
any file whose tensor table is not the one its metadata asks for.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .layouts import Layout
from .packed import index_dtype
from .value_type import FLOAT32, VALUE_TYPES, ValueType

ALIGNMENT = 64
"""Bytes: every tensor starts on a cache line, so that vector loads do not split lines."""

GRAPH = "graph"

DTYPES: dict[str, np.dtype[Any]] = {
    "U8": np.dtype("u1"),
    "U16": np.dtype("<u2"),
    "U32": np.dtype("<u4"),
    "I32": np.dtype("<i4"),
    **{each.tensor_dtype: each.dtype for each in VALUE_TYPES.values()},
}


@dataclass(frozen=True, slots=True)
class LayerShape:
    """The sizes that decide where the arrays of a layer lie. blocks: number of blocks that each level adds."""

    name: str
    rows: int
    columns: int
    layout: Layout
    permuted: bool
    blocks: tuple[int, ...]
    value_type: ValueType = FLOAT32

    @property
    def group_count(self) -> int:
        """G, the number of row groups."""
        return self.layout.group_count(self.rows)

    @property
    def packed_rows(self) -> int:
        """Number of rows, those of padding included."""
        return self.group_count * self.layout.group_rows

    @property
    def most_blocks(self) -> int:
        """Number of blocks of the whole weight."""
        return self.layout.most_blocks(self.rows, self.columns)

    @property
    def index_bytes(self) -> int:
        """Bytes of a column index, 2 or 4."""
        return index_dtype(self.columns).itemsize


@dataclass(frozen=True, slots=True)
class TensorPlace:
    """One tensor of the file, bytes `begin` to `end` of the data section: `count` elements, then zeros."""

    name: str
    dtype: str
    count: int
    begin: int
    end: int

    @property
    def itemsize(self) -> int:
        """Bytes of an element."""
        return DTYPES[self.dtype].itemsize


def tensor_name(layer: str, level: int, part: str) -> str:
    """Name of one packed array in the file."""
    return f"{layer}/level{level}/{part}"


def level_parts(layer: LayerShape, level: int) -> list[tuple[str, str, int]]:
    """(part, dtype, element count) of what `level` adds to `layer`, in file order."""
    blocks, packed_rows = layer.blocks[level], layer.packed_rows
    parts = [
        ("ptr", "U32", layer.group_count + 1),
        ("col", "U16" if layer.index_bytes == 2 else "U32", blocks * layer.layout.block_columns),
        ("val", layer.value_type.tensor_dtype, blocks * layer.layout.block_values),
        ("norm", "F32", 2 * packed_rows),
    ]
    if level == 0 and layer.permuted:
        parts.append(("perm", "I32", packed_rows))
    if level == 0 and layer.value_type.scaled:
        parts.append(("scale", "F32", packed_rows))
    return parts


def place(parts: Iterable[tuple[str, str, int]], begin: int) -> list[TensorPlace]:
    """Places for consecutive tensors from byte `begin` on, each padded to a multiple of ALIGNMENT."""
    places = []
    for name, dtype, count in parts:
        end = begin + math.ceil(count * DTYPES[dtype].itemsize / ALIGNMENT) * ALIGNMENT
        places.append(TensorPlace(name, dtype, count, begin, end))
        begin = end
    return places


def segment_places(layers: Sequence[LayerShape], level: int, begin: int = 0) -> list[TensorPlace]:
    """Places of all that `level` adds, from byte `begin` on."""
    parts = [
        (tensor_name(layer.name, level, part), dtype, count)
        for layer in layers
        for part, dtype, count in level_parts(layer, level)
    ]
    return place(parts, begin)


def file_places(layers: Sequence[LayerShape], level_count: int, graph_nbytes: int) -> list[list[TensorPlace]]:
    """Places of the graph (entry 0) and of each level's segment (entry l + 1), offsets in the data section."""
    sections = [place([(GRAPH, "U8", graph_nbytes)], 0)]
    for level in range(level_count):
        sections.append(segment_places(layers, level, sections[-1][-1].end))
    return sections


def tensor_table(sections: list[list[TensorPlace]]) -> dict[str, dict[str, Any]]:
    """The safetensors header entries of these places."""
    return {
        place.name: {
            "dtype": place.dtype,
            "shape": [(place.end - place.begin) // place.itemsize],
            "data_offsets": [place.begin, place.end],
        }
        for section in sections
        for place in section
    }
