"""measure_rows: measures a row of `bench kernels` by its kind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from nested_sparse.kernels import library
from nested_sparse.value_type import FLOAT32

from ..machine import versions
from ..neighbours import Neighbours
from .against_dense import measure_against_dense
from .forced import measure_forced
from .layers import measure_conv_rate
from .levels import measure_level0
from .model_cache import ModelCache
from .peers.rows import measure_peers
from .row import Row, Spec
from .table import LINEAR_ROUNDS, Settings
from .value_types import measure_value_types


def measure_rows(specs: Sequence[Spec], settings: Settings, cache: ModelCache) -> list[Row]:
    """The rows of `specs`, which share a setting. Raises NestedSparseError: none of them could be measured."""
    first, rounds = specs[0], settings.rounds
    neighbours = Neighbours()
    if first.isa and first.isa != library.isa():
        return measure_forced(specs, rounds)
    if first.values != FLOAT32.name:
        rows = measure_value_types(specs, cache, LINEAR_ROUNDS * rounds)
    elif first.kind == "linear":
        built = cache.linear(first.pattern, first.levels, first.batch)
        rows = measure_against_dense(specs, built, LINEAR_ROUNDS * rounds)
    elif first.kind == "level0":
        rows = measure_level0(specs, cache, 2 * rounds)  # a bound of three per cent needs more rounds
    else:
        built = cache.network(first.pattern, first.levels)
        if first.kind == "resnet50":
            rows = measure_against_dense(specs, built, rounds)
        elif first.kind == "conv-rate":
            rows = measure_conv_rate(specs, built, rounds)
        else:
            rows = measure_peers(specs, built, rounds, cache, settings.peers_folder)
    load = neighbours.cores()
    return [replace(row, versions=versions(), other_load=round(load, 3)) for row in rows]
