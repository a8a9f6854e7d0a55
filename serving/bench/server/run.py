"""Run: every figure of the server, part by part. A part that cannot be measured is a row that says why."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from nested_sparse.errors import NestedSparseError

from ...commands.bench_front import QUICK_ROUNDS, ROUNDS
from ...commands.bench_front import QUICK_SECONDS as QUICK_FRONT_SECONDS
from ...commands.bench_front import SECONDS as FRONT_SECONDS
from ...commands.bench_serving import CO_RUNNERS, QUICK_CO_RUNNERS, QUICK_SECONDS, QUICK_TRACES, SECONDS
from ..serving.experiment import CellResult
from ..serving.figure import Figure
from .installed import installed_figure
from .memory import memory_figures
from .start import start_figure

BILL_PARTS = 3
"""The first parts, which need no extra."""


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """checkpoint: served in every part but that of the front. quick: fewer calls, two traces, two co-runners.

    bill: only what a device pays before it answers: installed size, start, memory.
    """

    checkpoint: Path
    quick: bool = False
    bill: bool = False


def measure_server(options: ServerOptions, stream: TextIO) -> tuple[list[Figure], list[CellResult]]:
    """The figures, and the cells of the load test, empty where there was none. Progress goes to `stream`."""
    cells: list[CellResult] = []
    parts: Sequence[tuple[str, Callable[[], list[Figure]]]] = (
        ("installed size", lambda: [installed_figure()]),
        ("start", lambda: [start_figure(options.checkpoint, 3 if options.quick else 5)]),
        ("memory", lambda: memory_figures(options.checkpoint)),
        ("calls beside a bare gRPC server", lambda: _front(options)),
        ("levels under load", lambda: _load(options, stream, cells)),
    )
    figures: list[Figure] = []
    for name, measured in parts[:BILL_PARTS] if options.bill else parts:
        print(name, file=stream, flush=True)
        try:
            figures += measured()
        except NestedSparseError as error:
            figures.append(Figure(name, "", None, unavailable=str(error)))
    return figures, cells


def _front(options: ServerOptions) -> list[Figure]:
    try:
        from ..front.run import FrontOptions, measure_front
    except ModuleNotFoundError as error:
        raise NestedSparseError(f"it needs {error.name}: pip install 'nested-sparse[train]'") from None
    quick = options.quick
    return measure_front(
        FrontOptions(QUICK_ROUNDS, QUICK_FRONT_SECONDS) if quick else FrontOptions(ROUNDS, FRONT_SECONDS)
    )


def _load(options: ServerOptions, stream: TextIO, cells: list[CellResult]) -> list[Figure]:
    try:
        from ..serving.run import LoadTestOptions, run_load_test
    except ModuleNotFoundError as error:
        raise NestedSparseError(f"it needs {error.name}: pip install 'nested-sparse[bench]'") from None
    load = LoadTestOptions(
        checkpoint=options.checkpoint,
        traces=QUICK_TRACES if options.quick else (),
        co_runners=QUICK_CO_RUNNERS if options.quick else CO_RUNNERS,
        seconds=QUICK_SECONDS if options.quick else SECONDS,
    )
    result = run_load_test(load, stream)
    cells += result.cells
    return result.figures
