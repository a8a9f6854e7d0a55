"""LayerPlacement: the places of the arrays of a layer in the segments. The node in the graph has it as attributes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .places import LayerShape, TensorPlace, tensor_name
from .value_type import FLOAT32

PARTS = ("ptr", "col", "val", "norm")


@dataclass(frozen=True, slots=True)
class LayerPlacement:
    """The places of the arrays of a layer.

    offsets: bytes from the beginning of the level's segment to its ptr, col, val and norm, level after level.
    permutation_offset: the same of perm in segment 0; -1 without a permutation.
    scale_offset: the same of scale in segment 0; -1 where rows have none.
    banks, per_row: B and k of gs{B}x{k}, 0 for blocks.
    value_bytes: bytes of a value, by which the node names the value type.
    """

    rows: int
    columns: int
    block_rows: int
    index_bytes: int
    blocks: list[int]
    offsets: list[int]
    permutation_offset: int
    banks: int = 0
    per_row: int = 0
    value_bytes: int = FLOAT32.nbytes
    scale_offset: int = -1


def placement(shape: LayerShape, segments: Sequence[Sequence[TensorPlace]]) -> LayerPlacement:
    """The placement of one layer, from the places of all tensors in each level's segment."""
    begin = {place.name: place.begin - places[0].begin for places in segments for place in places}
    return LayerPlacement(
        rows=shape.rows,
        columns=shape.columns,
        block_rows=shape.layout.block_rows,
        index_bytes=shape.index_bytes,
        blocks=list(shape.blocks),
        offsets=[begin[tensor_name(shape.name, level, part)] for level in range(len(segments)) for part in PARTS],
        permutation_offset=begin[tensor_name(shape.name, 0, "perm")] if shape.permuted else -1,
        banks=shape.layout.banks,
        per_row=shape.layout.per_row,
        value_bytes=shape.value_type.nbytes,
        scale_offset=begin[tensor_name(shape.name, 0, "scale")] if shape.value_type.scaled else -1,
    )
