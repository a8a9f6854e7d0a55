"""What `bench kernels` runs: the measuring of each kind of row."""

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


def measure_rows(specs: Sequence[Spec], settings: Settings, workshop: ModelCache) -> list[Row]:
    """The rows of specs that share a setting. Raises NestedSparseError: then none of them could be measured."""
    first, rounds = specs[0], settings.rounds
    neighbours = Neighbours()
    if first.isa and first.isa != library.isa():
        return measure_forced(specs, rounds)
    if first.values != FLOAT32.name:
        rows = measure_value_types(specs, workshop, LINEAR_ROUNDS * rounds)
    elif first.kind == "linear":
        built = workshop.linear(first.pattern, first.levels, first.batch)
        rows = measure_against_dense(specs, built, LINEAR_ROUNDS * rounds)
    elif first.kind == "level0":
        rows = measure_level0(specs, workshop, 2 * rounds)  # a bound of three per cent asks for more of them
    else:
        built = workshop.network(first.pattern, first.levels)
        if first.kind == "resnet50":
            rows = measure_against_dense(specs, built, rounds)
        elif first.kind == "conv-rate":
            rows = measure_conv_rate(specs, built, rounds)
        else:
            rows = measure_peers(specs, built, rounds, workshop, settings.peers_folder)
    load = neighbours.cores()
    return [replace(row, versions=versions(), other_load=round(load, 3)) for row in rows]
