"""Row of many levels: the time of level 0 in a file of many levels, against its time in a file of its own."""

from __future__ import annotations

from collections.abc import Sequence

from nested_sparse.runtime.session import Session

from .against_dense import kernels_that_ran, our_run
from .model_cache import ModelCache
from .row import Row, Spec, speedup
from .turns import interleaved, timed, verified


def measure_level0(specs: Sequence[Spec], cache: ModelCache, rounds: int) -> list[Row]:
    """Level 0 of the whole file and a file exported with that level alone take turns. Raises BenchError."""
    rows = []
    for spec in specs:
        whole = cache.network(spec.pattern, spec.levels)
        alone = cache.network(spec.pattern, spec.levels[:1])
        with (
            Session(whole.path, threads=spec.threads) as in_whole,
            Session(alone.path, threads=spec.threads) as by_itself,
        ):
            runs = {"whole": our_run(in_whole, whole, 0), "alone": our_run(by_itself, alone, 0)}
            errors = {name: verified(f"{spec.name} ({name})", run(), whole.expected[0]) for name, run in runs.items()}
            samples = interleaved({name: timed(run) for name, run in runs.items()}, rounds)
            isa = in_whole.isa
        row = Row(
            spec,
            against="a file that holds that level alone",
            measured=speedup(
                ours_ms=samples["alone"], reference_ms=samples["whole"]
            ),  # time in the whole file / time alone
            ours_ms=samples["whole"],
            reference_ms=samples["alone"],
            kernel=kernels_that_ran(whole.path, spec),
            isa=isa,
            max_error=errors["whole"],
            reference_error=errors["alone"],
            note="measured: time in the whole file / time alone",
        )
        rows.append(row)
    return rows
