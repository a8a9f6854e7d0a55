"""Amend: what is said of a model may be learned after its file was written."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from nested_sparse.checkpoint import Checkpoint
from nested_sparse.reroute import Reroute, check_reroutes
from nested_sparse.writer import header_bytes, write_file


def store_reroutes(path: str | os.PathLike[str], reroutes: Sequence[Reroute]) -> None:
    """Put `reroutes` into the file at `path`, in place of those it has; the rest of it stays, bit for bit.

    The file is replaced by renaming: whoever has it open goes on with the old one. Raises CheckpointError, LevelError
    and InputError (they are another model's).
    """
    path = Path(path)
    with Checkpoint.open(path) as checkpoint:
        metadata = checkpoint.metadata
        check_reroutes(reroutes, len(metadata.levels), {layer.name for layer in metadata.layers})
        data = checkpoint.data_prefix(len(metadata.levels))
        write_file(path, header_bytes(replace(metadata, reroutes=tuple(reroutes))), [data], force=True)
