"""`nested-sparse bench server`: every figure of the server in one table."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import click

from nested_sparse.errors import BenchError

from .command import PATH, argument
from .output import print_json


@argument("checkpoint", type=PATH, metavar="FILE", help="Checkpoint to serve.")
@click.option("--quick", is_flag=True, help="Shorter parts: about 4 minutes in place of 20.")
@click.option("--bill", is_flag=True, help="Only a device's bill, without extras: installed size, start, memory.")
@click.option("as_json", "--json", is_flag=True, help="Only the JSON line on stdout.")
def server(checkpoint: Path, quick: bool, bill: bool, as_json: bool) -> None:
    """Installed size, start, memory, cost of a call, levels under load: figures and bounds in one table, then JSON.

    It joins `bench front` and `bench serving` with a few starts of the server. A part that cannot be measured here is a
    row with the reason. Wrong answers and failed requests end in exit code 1. Needs the [bench] and [train] extras,
    with `--bill` none.

    Example: `nested-sparse bench server docs/examples/fashion-mnist.safetensors --quick`
    """
    from nested_sparse.checkpoint import Checkpoint

    from ..bench.machine import machine_facts
    from ..bench.neighbours import TOLERABLE_LOAD, Neighbours, read_family_cpu_seconds
    from ..bench.server.run import ServerOptions, measure_server
    from ..bench.serving.report import errors_of, print_figures
    from .output import print_line

    if not checkpoint.is_file():
        raise BenchError(f"{checkpoint}: no such file")
    # A damaged file is refused before anything is measured. A Session would do more, but ONNX Runtime in this process
    # would share its pages with the server, whose memory would look smaller.
    Checkpoint.open(checkpoint).close()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that servers and co-runners end, too
    neighbours = Neighbours(read_family_cpu_seconds)
    figures, cells = measure_server(ServerOptions(checkpoint, quick, bill), sys.stderr)
    other_load = neighbours.cores()
    if not as_json:
        print_figures(figures)
        if other_load > TOLERABLE_LOAD:
            print_line(f"Other processes kept {other_load:.1f} cores busy meanwhile: measure again on an idle machine.")
    print_json({"figures": [each.to_json() for each in figures], "other_load": other_load, **machine_facts()})
    errors = errors_of(cells)
    if bill:  # its parts need no extra, so there is no good reason for one that cannot be measured
        errors += [f"{each.name}: {each.unavailable}" for each in figures if each.unavailable]
    if errors:
        raise BenchError("; ".join(errors))
