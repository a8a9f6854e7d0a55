"""`nested-sparse bench networks`: networks of the literature beside dense ONNX Runtime."""

from __future__ import annotations

import logging

import click

from nested_sparse.errors import NestedSparseError

from .command import Number, Whole
from .output import print_json

MOST_BATCH = 1024
REPEATS = 101
SECONDS, QUICK_SECONDS = 5.0, 0.5
"""Time for the rounds of a network and batch."""

_log = logging.getLogger(__name__)


@click.option(
    "--rows", multiple=True, help="Networks to measure, by name or by a pattern like 'mobilenet*'; may be repeated."
)
@click.option(
    "--batches",
    type=Whole(1, MOST_BATCH),
    multiple=True,
    help="Batch size; may be repeated. Default: 1 and 8.",
)
@click.option(
    "--levels",
    type=Number(0.0, 1.0),
    multiple=True,
    help="Density of a level; may be repeated. Default: 0.0538, 0.1338, 0.35.",
)
@click.option("--repeats", type=Whole(3), help=f"Most timed rounds of a network and batch. Default: {REPEATS}.")
@click.option("--quick", is_flag=True, help="Fewer layers, batch 1 unless others are given, fewer rounds.")
@click.option("--all-sparse", is_flag=True, help="Leave no layer dense by measurement.")
@click.option("--cpu-time", is_flag=True, help="The processor time of the thread, for a machine that does other work.")
@click.option("as_json", "--json", is_flag=True, help="Only the JSON line.")
def networks(
    rows: tuple[str, ...],
    batches: tuple[int, ...],
    levels: tuple[float, ...],
    repeats: int | None,
    quick: bool,
    all_sparse: bool,
    cpu_time: bool,
    as_json: bool,
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
    check_names(list(rows), list(NETWORKS))
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
