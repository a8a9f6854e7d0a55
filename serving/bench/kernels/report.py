"""The report of `bench kernels`: the table, the layers, and the JSON line."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from nested_sparse.runtime.resources import cpu_model

from ...commands.output import print_line, print_table
from ..machine import int8_instructions, machine_facts
from ..neighbours import disturbance
from ..reach import MET
from .row import Row

COLUMNS = ("row", "reach", "measured", "met", "ours: ms (best)", "other: ms (best)", "error", "kernel", "against")


def print_rows(rows: Sequence[Row], rounds: int) -> None:
    """Print the measured rows as a table; below it the rows that could not be measured, and the notes."""
    print_table(
        f"Our kernels, medians of interleaved rounds ({rounds}, more where runs are short), on {cpu_model()}; "
        f"its instructions for int8: {', '.join(int8_instructions()) or 'none'}",
        COLUMNS,
        [_cells(row) for row in rows if not row.unavailable],
    )
    for row in rows:
        if row.unavailable:
            print_line(f"{row.spec.name}: not available: {row.unavailable}")
    noted: dict[str, list[str]] = {}
    for row in rows:
        if row.note:
            noted.setdefault(row.note, []).append(row.spec.name)
    for note, names in noted.items():
        print_line(f"{', '.join(names)}: {note}")
    print(disturbance([row.other_load for row in rows]), end="")


def print_layers(rows: Sequence[Row]) -> None:
    """Print the kinds of layer of each row that has them: ms and GFLOP/s of the kept weights, both sides."""
    for row in rows:
        if row.layers:
            print_table(
                f"{row.spec.name}: kinds of convolution, {row.spec.threads} thread(s), {row.kernel}",
                ("layer", "count", "our ms", "our GFLOP/s", "dense ms", "dense GFLOP/s"),
                [tuple("none alike" if cell is None else cell for cell in line.values()) for line in row.layers],
            )


def report(rows: Sequence[Row]) -> dict[str, Any]:
    """The content of the JSON line: the machine, then every row."""
    return {"bench": "kernels", **machine_facts(), "rows": [row.to_json() for row in rows]}


def _cells(row: Row) -> tuple[str, ...]:
    assert row.measured is not None
    return (
        row.spec.name,
        "" if row.spec.reach is None else str(row.spec.reach),
        f"{row.measured:.2f}",
        MET[row.met],
        _side(row.ours_ms, row.ours_bytes),
        _side(row.reference_ms, row.reference_bytes),
        "" if row.max_error is None else f"{row.max_error:.0e}",
        f"{row.kernel} ({row.isa})" if row.kernel else "",
        row.against if row.reference_error is None else f"{row.against}, error {row.reference_error:.0e}",
    )


def _side(samples_ms: Sequence[float], nbytes: int | None) -> str:
    if nbytes is not None:
        return f"{nbytes / 1e6:.2f} MB"
    return f"{statistics.median(samples_ms):.2f} ({min(samples_ms):.2f})"
