"""RandomCopy: a checkpoint of the same network whose layers keep random weights, to measure what weights cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nested_sparse.budget import blocks_to_keep
from nested_sparse.checkpoint import Checkpoint
from nested_sparse.errors import PatternError
from nested_sparse.excerpt import excerpt
from nested_sparse.graph.contract import LAYER_KINDS
from nested_sparse.graph.placed import placed
from nested_sparse.layouts import Blocks, Layout, parse_pattern
from nested_sparse.mask import group_count
from nested_sparse.metadata import LayerEntry
from nested_sparse.weight import NestedWeight
from nested_sparse.writer import LayerRecord, LevelRecord, write_checkpoint


def write_random_copy(
    checkpoint: Checkpoint, path: Path, densities: Sequence[float], pattern: str = "", seed: int = 0
) -> list[LayerRecord]:
    """Write a copy of `checkpoint` to `path` with random weights; returns its layers.

    densities: one per level of `checkpoint`, rising. Each layer keeps this share of its blocks, drawn at random;
    one that `checkpoint` keeps whole at every level stays whole. pattern: that of the other layers; "" is each layer's
    own. Weights are such that no value overflows: their variance is 2 / kept weights of a row, and norms scale by 1.
    Raises PatternError: the pattern keeps whole channels, which cannot be drawn layer by layer, or does not fit.
    """
    rng = np.random.default_rng(seed)
    records = [_record(entry, densities, pattern, rng) for entry in checkpoint.layers]
    write_checkpoint(
        path,
        graph_builder=lambda placements: placed(checkpoint.graph(), placements),
        layers=records,
        levels=[LevelRecord(density, 0, {}) for density in densities],
        inputs=checkpoint.inputs,
        outputs=checkpoint.outputs,
    )
    return records


def is_whole(entry: LayerEntry) -> bool:
    """Whether every level of a file keeps all weights of the layer."""
    return entry.nnz[0] == entry.rows * entry.columns


def _record(entry: LayerEntry, densities: Sequence[float], pattern: str, rng: np.random.Generator) -> LayerRecord:
    parts = entry.attributes.get("groups", [1])[0]
    if is_whole(entry):
        layout: Layout = Blocks(entry.block_rows)
    else:
        layout = parse_pattern(pattern or entry.pattern)
        layout = layout if LAYER_KINDS[entry.op].gathers else layout.in_blocks
        layout = layout.fitted(entry.rows, parts, row_step=1)
    if layout.whole_channels:
        raise PatternError(
            f"layer '{excerpt(entry.name)}' keeps whole channels, which cost no time of their own; measure another "
            "pattern, e.g. --pattern block4x1"
        )
    scores = rng.random((group_count(entry.rows, layout.block_rows), entry.columns))
    if is_whole(entry):
        first_level = np.zeros(scores.shape, np.uint8)
    else:
        most = layout.size((entry.rows, entry.columns), None).most
        most = scores.size if most is None else most
        if not most:
            raise PatternError(
                f"layer '{excerpt(entry.name)}', {entry.rows} rows of {entry.columns} weights, is too small for "
                f"{layout.name}; measure another pattern, or keep the layer dense"
            )
        counts = [min(blocks_to_keep(density, scores.size), most) for density in densities]
        first_level = layout.first_level(scores, counts, 1)
    permutation = _permutation(entry.rows, parts, rng) if entry.permuted and layout.block_rows > 1 else None
    layout, first_level, permutation = layout.stored(first_level, permutation, entry.name)
    deviation = math.sqrt(2 / max(1.0, densities[-1] * entry.columns))
    values = (deviation * rng.standard_normal((entry.rows, entry.columns))).astype(np.float32)
    norms = np.zeros((len(densities), 2, entry.rows), np.float32)
    norms[:, 0] = 1
    return LayerRecord(
        NestedWeight(entry.name, values, first_level, layout, permutation),
        norms,
        entry.op,
        entry.attributes,
        pattern=layout.name,
        value_type=entry.value_type,
    )


def _permutation(rows: int, parts: int, rng: np.random.Generator) -> NDArray[np.int32]:
    """A random order of the rows in which each part stays together, as in a convolution in groups."""
    of_part = np.arange(rows).reshape(parts, -1)
    return rng.permuted(of_part, axis=1).reshape(-1).astype(np.int32)
