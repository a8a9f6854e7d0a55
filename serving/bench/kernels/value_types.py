"""Rows for value types: the speed of a layer in another value type, against its speed in float32."""

from __future__ import annotations

from collections.abc import Sequence

from nested_sparse.runtime.session import Session
from nested_sparse.value_type import FLOAT32

from .against_dense import kernels_that_ran, our_run
from .model_cache import ModelCache
from .row import Row, Spec, speedup
from .turns import interleaved, timed, verified


def measure_value_types(specs: Sequence[Spec], cache: ModelCache, rounds: int) -> list[Row]:
    """Time a linear layer in the value type of its spec and the same layer in float32, in turns. Raises BenchError."""
    rows = []
    for spec in specs:
        stored, floats = (
            cache.linear(spec.pattern, spec.levels, spec.batch, values) for values in (spec.values, FLOAT32.name)
        )
        with (
            Session(stored.path, threads=spec.threads) as in_stored,
            Session(floats.path, threads=spec.threads) as in_floats,
        ):
            ours, reference = our_run(in_stored, stored, spec.level), our_run(in_floats, floats, spec.level)
            error = verified(spec.name, ours(), stored.expected[spec.level])
            reference_error = verified(f"{spec.name} (float32)", reference(), floats.expected[spec.level])
            samples = interleaved({"stored": timed(ours), "floats": timed(reference)}, rounds)
            isa = in_stored.isa
        row = Row(
            spec,
            against="the same layer in float32",
            measured=speedup(samples["stored"], samples["floats"]),
            ours_ms=samples["stored"],
            reference_ms=samples["floats"],
            kernel=kernels_that_ran(stored.path, spec),
            isa=isa,
            max_error=error,
            reference_error=reference_error,
            note=f"{spec.values} is compared with torch on the rounded weights",
        )
        rows.append(row)
    return rows
