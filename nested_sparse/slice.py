"""Slice: the prefix of a checkpoint that holds its first levels."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from nested_sparse.checkpoint import Checkpoint
from nested_sparse.errors import LevelError
from nested_sparse.writer import header_bytes, refuse_existing, write_file


def slice_checkpoint(
    source: str | os.PathLike[str], level_count: int, destination: str | os.PathLike[str], force: bool = False
) -> None:
    """Write levels 0 to `level_count` - 1 of `source` to `destination`: the same bytes, cut after the last segment.

    Raises LevelError where `source` has fewer levels, CheckpointError where it is damaged or `destination` exists.
    """
    destination = Path(destination)
    refuse_existing(destination, force)
    with Checkpoint.open(source) as checkpoint:
        metadata = checkpoint.metadata
        if not 1 <= level_count <= len(metadata.levels):
            raise LevelError(
                f"{source}: has {len(metadata.levels)} levels; keep 1 to {len(metadata.levels)}, got {level_count}"
            )
        cut = replace(
            metadata,
            levels=metadata.levels[:level_count],
            layers=tuple(
                replace(layer, blocks=layer.blocks[:level_count], nnz=layer.nnz[:level_count])
                for layer in metadata.layers
            ),
            reroutes=tuple(reroute for reroute in metadata.reroutes if reroute.start < level_count),
        )
        data = checkpoint.data_prefix(level_count)
        write_file(destination, header_bytes(cut), [data], force)
