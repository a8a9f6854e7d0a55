"""Costs: the measurement of `profile --costs`, and its file and table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from nested_sparse.errors import InputError
from nested_sparse.excerpt import excerpt

from .output import print_json, print_line, print_table

if TYPE_CHECKING:
    from nested_sparse.runtime.profiling import DenseCheck


def refuse_beside_costs(level: int, batch: list[int], against: Path | None) -> None:
    """Raise InputError where options of `profile` are given that do not go with --costs."""
    given = [name for name, here in (("--level", level != -1), ("--against", against is not None)) if here]
    if given:
        raise InputError(f"{', '.join(given)}: not with --costs, which measures densities of its own; leave it out")
    if len(batch) > 1:
        raise InputError(
            f"--batch: expected one with --costs, got {', '.join(map(str, batch))}; measure each to a file of its own, "
            "and give nest all of them: costs=[…]"
        )


def measure_and_write(
    file: Path,
    costs: Path,
    patterns: list[str],
    batch: int,
    threads: int | None,
    repeats: int,
    *,
    spin: bool,
    json: bool,
) -> None:
    """Measure the costs of `file`'s layers, write them to `costs`, and show the runs that check them.

    Shown beside them: whole networks with layers that ONNX Runtime runs dense. An earlier file of costs is replaced.
    Raises BudgetError: `costs` is another file; CheckpointError and the errors of measure_costs.
    """
    from nested_sparse.device_costs import DeviceCosts
    from nested_sparse.runtime.profiling import measure_costs
    from nested_sparse.writer import refuse_existing, write_file

    if costs.exists():
        DeviceCosts.read(costs)
    refuse_existing(costs, force=True)
    measured = measure_costs(file, patterns, batch=batch, repeats=repeats, threads=threads, spin=spin)
    write_file(costs, measured.costs.to_json().encode(), (), force=True)
    found = measured.costs
    checks = [
        [
            each.pattern or "own",
            each.density,
            each.measured_ms,
            each.predicted_ms,
            100 * (each.predicted_ms / each.measured_ms - 1),
        ]
        for each in measured.checks
    ]
    columns = ["pattern", "density", "measured ms", "predicted ms", "error %"]
    if json:
        print_json(
            {
                "file": str(file),
                "costs": str(costs),
                "batch": found.batch,
                "other_ms": found.other_ms,
                "checks": [dict(zip(columns, row, strict=True)) for row in checks],
                "dense_ms": found.dense_ms,
                "dense": [asdict(each) for each in measured.dense],
                "faster_than_dense": profits(measured.dense),
            }
        )
        return
    isa = found.isa if found.int8_isa in ("", found.isa) else f"{found.isa} (int8: {found.int8_isa})"
    where = f"batch {found.batch}, isa {isa}, threads {found.threads}"
    print_table(f"{file}: whole runs with random masks, {where}", columns, checks)
    print_dense(measured.dense)
    print_line(f"{costs}: costs of {len(found.layers)} layers, and {found.other_ms:.4g} ms for all else")


def least_ms(check: DenseCheck) -> float:
    """Time of the faster network of a check: with all layers sparse, or with some dense."""
    return min(check.sparse_ms, check.mixed_ms or math.inf)


def profits(checks: Sequence[DenseCheck]) -> bool | None:
    """Whether a network is faster at its sparsest level than dense; None where that was not measured."""
    dense_ms = checks[0].dense_ms if checks else None
    return None if dense_ms is None else least_ms(checks[0]) < dense_ms


def print_dense(checks: Sequence[DenseCheck]) -> None:
    """Print whole runs beside those with dense layers, and the verdict."""
    if not checks:
        print_line(
            "dense layers were not measured: the file has none that ONNX Runtime runs alike, or they are too large"
        )
        return
    layers = checks[0].layers
    print_table(
        "whole runs: with all layers sparse, with those dense that are slower at the last density, and all dense in "
        "ONNX Runtime alone",
        ["density", "sparse ms", f"{len(layers)} layers dense ms", "plain network ms"],
        [[each.density, each.sparse_ms, or_dash(each.mixed_ms), or_dash(each.dense_ms)] for each in checks],
    )
    if layers:
        names = ", ".join(excerpt(name) for name in layers)
        print_line(f'faster dense: {names}; nest(…, costs=…, dense_where="ever_slower") leaves such layers dense')
    if profits(checks) is False:
        print_line(
            f"this network does not profit here: dense ONNX Runtime takes {checks[0].dense_ms:.4g} ms, the level of "
            f"{checks[0].density:.0%} {least_ms(checks[0]):.4g} ms; serve the plain model"
        )


def or_dash(ms: float | None) -> float | str:
    """A time in a table."""
    return "-" if ms is None else ms
