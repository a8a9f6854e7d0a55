"""Amend: what is said of a model may be learned after its file was written."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace

from .checkpoint import Checkpoint
from .errors import InputError
from .metadata import DEPENDENT, INDEPENDENT, Metadata
from .reroute import Reroute, check_reroutes
from .writer import header_bytes, write_file


def store_reroutes(path: str | os.PathLike[str], reroutes: Sequence[Reroute]) -> None:
    """Put `reroutes` into the file at `path`, in place of those it has; the rest of it stays, bit for bit.

    The file is replaced by renaming: whoever has it open goes on with the old one. Raises CheckpointError, LevelError
    and InputError (they are another model's).
    """

    def amended(metadata: Metadata) -> Metadata:
        check_reroutes(reroutes, len(metadata.levels), {layer.name for layer in metadata.layers})
        return replace(metadata, reroutes=tuple(reroutes))

    _amend(path, amended)


def store_rows(path: str | os.PathLike[str], rows: str | None) -> None:
    """Put into the file at `path` what was found of its rows: INDEPENDENT, DEPENDENT, or None for nothing.

    The rest stays and the file is replaced, as by `store_reroutes`. Raises CheckpointError, InputError.
    """
    if rows not in (None, INDEPENDENT, DEPENDENT):
        raise InputError(f"rows: expected {INDEPENDENT!r}, {DEPENDENT!r} or None, got {rows!r}")
    _amend(path, lambda metadata: replace(metadata, rows=rows))


def _amend(path: str | os.PathLike[str], change: Callable[[Metadata], Metadata]) -> None:
    with Checkpoint.open(path) as checkpoint:
        metadata = change(checkpoint.metadata)
        write_file(checkpoint.path, header_bytes(metadata), [checkpoint.data_prefix(len(metadata.levels))], force=True)
