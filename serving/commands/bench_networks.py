"""`nested-sparse bench networks`: networks of the literature beside dense ONNX Runtime."""

from __future__ import annotations

import logging
from typing import Annotated

import typer

from nested_sparse.errors import NestedSparseError

from .output import print_json

MOST_BATCH = 1024
REPEATS = 101
SECONDS, QUICK_SECONDS = 5.0, 0.5
"""Time for the rounds of a network and batch."""

_log = logging.getLogger(__name__)


def networks(
    rows: Annotated[
        list[str] | None,
        typer.Option(help="Networks to measure, by name or by a pattern like 'mobilenet*'; may be repeated."),
    ] = None,
    batches: Annotated[
        list[int] | None,
        typer.Option(help="Batch size; may be repeated. Default: 1 and 8.", min=1, max=MOST_BATCH),
    ] = None,
    levels: Annotated[
        list[float] | None,
        typer.Option(help="Density of a level; may be repeated. Default: 0.0538, 0.1338, 0.35.", min=0.0, max=1.0),
    ] = None,
    repeats: Annotated[
        int | None, typer.Option(help=f"Most timed rounds of a network and batch. Default: {REPEATS}.", min=3)
    ] = None,
    quick: Annotated[
        bool,
        typer.Option("--quick", help="Fewer layers, batch 1 unless others are given, fewer rounds."),
    ] = False,
    all_sparse: Annotated[bool, typer.Option("--all-sparse", help="Leave no layer dense by measurement.")] = False,
    cpu_time: Annotated[
        bool, typer.Option("--cpu-time", help="The processor time of the thread, for a machine that does other work.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Only the JSON line.")] = False,
) -> None:
    """Networks of the literature, nested, against dense ONNX Runtime of the same torch models, one thread.

    The weights are random. Layers that ONNX Runtime runs faster with their dense weight, by measurement on this device
    at one of the batch sizes or more, stay dense, and a column counts them. Every level is compared with torch at each
    batch size. Then the levels and the dense network are timed in turns, in one process. A row has the share of the
    FLOPs in sparse layers, the largest error, how many times as fast each level is, why layers stay dense, and the time
    to nest and export beside that of torch.onnx.export. A network that cannot be measured gives the reason.
    Needs the [train] extra.

    Example: `nested-sparse bench networks --rows 'mobilenet*' --batches 1`
    """
    try:
        from nested_sparse.budget import check_densities
        from nested_sparse.trainer.networks import NETWORKS

        from ..bench.networks.measure import LEVELS, Settings, measure_network
        from ..bench.networks.report import log_line, print_rows, report
        from ..bench.row_names import check_names, is_picked
    except ModuleNotFoundError as error:
        raise NestedSparseError(
            f"this benchmark makes its models with {error.name}: pip install 'nested-sparse[train]'"
        ) from None
    check_names(rows or [], list(NETWORKS))
    settings = Settings(
        levels=check_densities(sorted(set(levels or LEVELS))),
        batches=tuple(dict.fromkeys(batches or ((1,) if quick else (1, 8)))),
        repeats=repeats or REPEATS,
        seconds=QUICK_SECONDS if quick else SECONDS,
        shallow=quick,
        cpu_time=cpu_time,
        choice=not all_sparse,
    )
    results = []
    for name, network in NETWORKS.items():
        if not rows or is_picked(name, rows):
            _log.info("measuring %s", name)
            results.append(measure_network(network, settings))
            _log.info("%s", log_line(results[-1]))
    if not as_json:
        print_rows(results)
    print_json(report(results))
