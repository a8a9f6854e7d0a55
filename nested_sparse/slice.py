"""Slice: a checkpoint of the first levels of another, which is a prefix of its data."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from .argument import as_whole, file_path, shown
from .checkpoint import Checkpoint
from .errors import CheckpointError, LevelError
from .excerpt import excerpt
from .metadata import Metadata
from .writer import header_bytes, refuse_existing, write_file


def slice_checkpoint(
    source: str | os.PathLike[str], level_count: int, destination: str | os.PathLike[str], force: bool = False
) -> None:
    """Write levels 0 to `level_count` - 1 of `source` to `destination`: the same data, cut after their last segment.

    force: whether an existing `destination` is replaced.
    Raises LevelError where `source` has fewer levels, CheckpointError where it is damaged, `destination` exists, or the
    two are one file, also with `force`, and InputError where one of the two is not a path.
    """
    source, destination = file_path("source", source), file_path("destination", destination)
    if _same_file(source, destination):
        raise CheckpointError(
            f"{excerpt(destination)}: is the file to cut ({excerpt(source)}); its other levels would be lost; name "
            "another file"
        )
    refuse_existing(destination, force)
    with Checkpoint.open(source) as checkpoint:
        metadata = checkpoint.metadata
        kept = as_whole(level_count)
        if kept is None or not 1 <= kept <= len(metadata.levels):
            raise LevelError(
                f"{excerpt(checkpoint.path)}: has {len(metadata.levels)} levels; keep 1 to {len(metadata.levels)}, got "
                f"{shown(level_count)}"
            )
        write_file(destination, header_bytes(cut(metadata, kept)), [checkpoint.data_prefix(kept)], force)


def cut(metadata: Metadata, level_count: int) -> Metadata:
    """The metadata of the slice with the first `level_count` levels, which must be there."""
    return replace(
        metadata,
        levels=metadata.levels[:level_count],
        layers=tuple(layer.cut(level_count) for layer in metadata.layers),
        reroutes=tuple(reroute for reroute in metadata.reroutes if reroute.start < level_count),
    )


def _same_file(source: Path, destination: Path) -> bool:
    """Whether the two paths lead to one existing file, directly or through links."""
    try:
        return os.path.samefile(source, destination)
    except (OSError, ValueError):  # one of them does not exist, or no file can have its name
        return False
