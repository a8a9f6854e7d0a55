"""The row that asks what float16 values gain over float32."""

from __future__ import annotations

from collections.abc import Sequence

from nested_sparse.runtime.session import Session

from .against_dense import kernels_that_ran, our_run
from .model_cache import ModelCache
from .row import Row, Spec, speedup
from .turns import interleaved, timed, verified


def measure_halves(specs: Sequence[Spec], workshop: ModelCache, rounds: int) -> list[Row]:
    """A linear layer stored as the spec says and the same in float32 take turns. Raises BenchError."""
    rows = []
    for spec in specs:
        halves, floats = (
            workshop.linear(spec.pattern, spec.levels, spec.batch, values) for values in (spec.values, "float32")
        )
        with (
            Session(halves.path, threads=spec.threads) as in_halves,
            Session(floats.path, threads=spec.threads) as in_floats,
        ):
            ours, reference = our_run(in_halves, halves, spec.level), our_run(in_floats, floats, spec.level)
            error = verified(spec.name, ours(), halves.expected[spec.level])
            reference_error = verified(f"{spec.name} (float32)", reference(), floats.expected[spec.level])
            samples = interleaved({"halves": timed(ours), "floats": timed(reference)}, rounds)
            isa = in_halves.isa
        row = Row(
            spec,
            against="the same layer in float32",
            measured=speedup(samples["halves"], samples["floats"]),
            ours_ms=samples["halves"],
            reference_ms=samples["floats"],
            kernel=kernels_that_ran(halves.path, spec),
            isa=isa,
            max_error=error,
            reference_error=reference_error,
            note=f"{spec.values} is compared with torch on the rounded weights",
        )
        rows.append(row)
    return rows
