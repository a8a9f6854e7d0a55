"""Amend: changes to the metadata of a file that is written already."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from .checkpoint import Checkpoint
from .errors import InputError
from .metadata import DEPENDENT, INDEPENDENT, Metadata
from .reroute import Reroute, check_reroutes
from .writer import header_bytes, write_file


def store_reroutes(path: str | os.PathLike[str], reroutes: Sequence[Reroute]) -> None:
    """Put `reroutes` into the file at `path`, in place of those that it has. All else stays the same, bit for bit.

    The file is replaced by renaming: a process that has it open goes on with the old file. Raises CheckpointError, and
    LevelError or InputError where the reroutes do not fit the model.
    """

    def amended(metadata: Metadata) -> Metadata:
        check_reroutes(reroutes, len(metadata.levels), {layer.name for layer in metadata.layers})
        return replace(metadata, reroutes=tuple(reroutes))

    _amend(path, amended)


def store_rows(path: str | os.PathLike[str], rows: str | None) -> None:
    """Put the mark of the rows into the file at `path`: INDEPENDENT, DEPENDENT, or None for not known.

    All else stays, and the file is replaced, as by `store_reroutes`. Raises CheckpointError, InputError.
    """
    if rows not in (None, INDEPENDENT, DEPENDENT):
        raise InputError(f"rows: expected {INDEPENDENT!r}, {DEPENDENT!r} or None, got {rows!r}")
    _amend(path, lambda metadata: replace(metadata, rows=rows))


def store_metrics(path: str | os.PathLike[str], metrics: Mapping[str, Sequence[float]]) -> None:
    """Put `metrics`, one finite value per level by name, into the file at `path`, in place of those that it has.

    All else stays, and the file is replaced, as by `store_reroutes`. Raises CheckpointError, InputError.
    """

    def amended(metadata: Metadata) -> Metadata:
        for name, values in metrics.items():
            if len(values) != len(metadata.levels) or not all(math.isfinite(value) for value in values):
                raise InputError(
                    f"metrics[{name!r}]: expected one finite value for each of {len(metadata.levels)} levels, got "
                    f"{list(values)}"
                )
        levels = [
            replace(entry, metrics={name: float(values[level]) for name, values in metrics.items()})
            for level, entry in enumerate(metadata.levels)
        ]
        return replace(metadata, levels=tuple(levels))

    _amend(path, amended)


def store_signature(path: str | os.PathLike[str], sign: Callable[[bytes], str]) -> None:
    """Put the signature that `sign` makes into the file at `path`, in place of one that it has (Seal).

    All else stays, and the file is replaced, as by `store_reroutes`. Any other change of a file takes its signature
    away. Raises CheckpointError, and what `sign` raises.
    """
    _amend(path, lambda metadata: metadata, sign)


def _amend(
    path: str | os.PathLike[str], change: Callable[[Metadata], Metadata], sign: Callable[[bytes], str] | None = None
) -> None:
    with Checkpoint.open(path) as checkpoint:
        metadata = change(checkpoint.metadata)
        write_file(
            checkpoint.path, header_bytes(metadata, sign), [checkpoint.data_prefix(len(metadata.levels))], force=True
        )
