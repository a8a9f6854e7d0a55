"""measure_rows: measures a row of `bench kernels` by its kind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from nested_sparse.kernels import library

from ..machine import versions
from ..neighbours import Neighbours
from .contenders import measure_contenders
from .forced import measure_forced
from .layers import measure_conv_rate
from .model_cache import LINEAR, ModelCache
from .peers.rows import measure_peers
from .row import FILE_BYTES, RESIDENT_BYTES, Row, Spec
from .stored_size import measure_bytes
from .table import LINEAR_ROUNDS, Settings


def measure_rows(specs: Sequence[Spec], settings: Settings, cache: ModelCache) -> list[Row]:
    """The rows of `specs`, which share a setting. Raises NestedSparseError: none of them could be measured."""
    first, rounds = specs[0], settings.rounds
    neighbours = Neighbours()
    if first.isa and first.isa != library.isa():
        return measure_forced(specs, rounds)
    if first.kind in (FILE_BYTES, RESIDENT_BYTES):
        rows = measure_bytes(specs, cache)
    elif first.kind == "conv-rate":
        rows = measure_conv_rate(specs, cache.built(first.network, first.pattern, first.levels), cache, rounds)
    elif first.kind == "peer":
        rows = measure_peers(specs, rounds, cache, settings.peers_folder)
    else:
        # a round of linear layers takes milliseconds; a bound of a few per cent needs more rounds
        more = {LINEAR: LINEAR_ROUNDS, "level0": 2}.get(first.kind, 1)
        rows = measure_contenders(specs, cache, more * rounds)
    load = neighbours.cores()
    return [replace(row, versions=versions(), other_load=round(load, 3)) for row in rows]
