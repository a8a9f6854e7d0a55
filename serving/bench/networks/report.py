"""The report of `bench networks`: the table, the layers that stay dense, and the JSON line."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from typing import Any

from nested_sparse.network import count_text
from nested_sparse.runtime.resources import cpu_model

from ...commands.output import print_line, print_table
from ..machine import machine_facts
from ..neighbours import disturbance
from .row import BatchTimes, Row

SLOWER = "(slower)"
"""The mark of a level that takes longer than the dense network."""


def print_rows(rows: Sequence[Row]) -> None:
    """Print the measured rows as a table; below it what stays dense, and the rows that could not be measured."""
    levels = [f"{100 * density:g} %" for density in rows[0].levels] if rows else []
    columns = (
        "network",
        "FLOP",
        "sparse",
        "measured dense",
        "error",
        "nest + export / plain",
        "batch",
        "dense ms",
        *levels,
    )
    print_table(
        f"Networks against dense ONNX Runtime, 1 thread, on {cpu_model()}: how many times as fast each level is, "
        "medians of interleaved rounds",
        columns,
        [cells for row in rows for cells in _lines(row)],
    )
    for row in rows:
        if row.unavailable:
            print_line(f"{row.name}: not available: {row.unavailable}")
        elif row.reasons:
            print_line(f"{row.name}: dense: {'; '.join(f'{count} × {why}' for why, count in row.reasons.items())}")
        if row.unprofitable:
            print_line(f"{row.name}: {row.unprofitable}; the figures are of sparse layers")
    slower = [f"{row.name} at batch {times.batch}" for row in rows for times in row.times if min(times.speedups) < 1.0]
    print_line(f"Slower than dense at one level or more: {', '.join(slower) or 'none'}")
    print(disturbance([row.other_load for row in rows]), end="")


def log_line(row: Row) -> str:
    """The row in one line: how many times as fast each level is, for each batch."""
    if row.unavailable:
        return f"{row.name}: not available: {row.unavailable}"
    figures = (f"batch {times.batch}: {' / '.join(f'{ratio:.2f}' for ratio in times.speedups)}" for times in row.times)
    return f"{row.name}: {'; '.join(figures)} × dense, error {row.max_error:.0e}"


def report(rows: Sequence[Row]) -> dict[str, Any]:
    """The content of the JSON line: the machine, then every row."""
    return {"bench": "networks", **machine_facts(), "rows": [row.to_json() for row in rows]}


def _lines(row: Row) -> Iterator[tuple[str, ...]]:
    if row.network is None or row.seconds is None:
        return
    seconds = row.seconds
    made = f"{seconds.nest:.1f} + {seconds.export:.1f} / {seconds.plain_export:.1f} s"
    sparse, measured = f"{row.network.sparse_share:.1%}", "all" if row.unprofitable else str(len(row.measured))
    facts = (row.name, count_text(row.network.flops), sparse, measured, f"{row.max_error:.0e}", made)
    for index, times in enumerate(row.times):
        yield (*(facts if index == 0 else ("",) * len(facts)), *_figures(times))


def _figures(times: BatchTimes) -> tuple[str, ...]:
    ratios = (f"{ratio:.2f}{'' if ratio >= 1.0 else f' {SLOWER}'}" for ratio in times.speedups)
    return str(times.batch), f"{statistics.median(times.dense_ms):.3g}", *ratios
