"""measure_bytes: bytes of an int8 file's levels on disk and in memory, against the same levels in float32."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nested_sparse.checkpoint import Checkpoint
from nested_sparse.runtime.profiling import measure_resident
from nested_sparse.value_type import FLOAT32

from .model_cache import ModelCache
from .row import FILE_BYTES, Row, Spec

RESIDENT_NOTE = "resident bytes: pages of the weights, and memory added by runs at the level, in a process of its own"


def measure_bytes(specs: Sequence[Spec], cache: ModelCache) -> list[Row]:
    """The rows of `specs`, which share a kind and a pair of files. Raises NestedSparseError."""
    first = specs[0]
    ours, floats = (
        _bytes_of_levels(first.kind, cache.built(first.network, first.pattern, first.levels, values=values).path)
        for values in (first.values, FLOAT32.name)
    )
    return [
        Row(
            spec,
            against="the same level in float32",
            measured=ours[spec.level] / floats[spec.level],
            ours_bytes=ours[spec.level],
            reference_bytes=floats[spec.level],
            note="" if first.kind == FILE_BYTES else RESIDENT_NOTE,
        )
        for spec in specs
    ]


def _bytes_of_levels(kind: str, path: Path) -> dict[int, int]:
    """Bytes by level: of the file every level, of the memory the sparsest and the densest."""
    with Checkpoint.open(path, verify=False) as checkpoint:
        levels = checkpoint.levels
    if kind == FILE_BYTES:
        return {level.index: level.nbytes for level in levels}
    memory = measure_resident(path)
    return {0: memory.sparsest.over(memory.loaded), levels[-1].index: memory.densest.over(memory.loaded)}
