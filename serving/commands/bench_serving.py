"""`nested-sparse bench serving`: an open-loop load test of every way to serve, under every condition."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

from nested_sparse.errors import BenchError

from .output import print_json

SECONDS, QUICK_SECONDS = 7.0, 6.0
QUICK_TRACES, QUICK_CO_RUNNERS = ("poisson", "gamma-8"), ("none", "cpu")
CO_RUNNERS = ("none", "cpu", "memory", "quota")


def serving(
    checkpoint: Annotated[
        Path | None,
        typer.Argument(
            help="Checkpoint to serve, or the one that --target serves. [default: the demo's]", metavar="FILE"
        ),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            help="HOST:PORT of a running Open Inference Protocol server, in place of servers that are started."
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="The target's model. [default: FILE's stem, or the target's first]")
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="Folder of IDX files, whose images the requests carry. [default: digits; with FILE: noise]"),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of the demo's checkpoint; a missing one is trained.")] = Path(
        "demo-out"
    ),
    arrivals: Annotated[
        Path | None, typer.Option(help="An .npz file of arrival times (`arrival_us`), as one trace more.")
    ] = None,
    trace: Annotated[
        list[str] | None,
        typer.Option(
            help="poisson, gamma-2, gamma-4, gamma-8, ramp, or --arrivals' stem; may be repeated. Default: all."
        ),
    ] = None,
    co_runner: Annotated[
        list[str] | None,
        typer.Option(help=f"{', '.join(CO_RUNNERS)}; may be repeated. Default: all that are allowed here."),
    ] = None,
    seconds: Annotated[
        float | None,
        typer.Option(help=f"Load per server, trace and co-runner, in seconds. Default: {SECONDS:g}.", min=1.0),
    ] = None,
    slo_ms: Annotated[
        float | None,
        typer.Option(
            help="Milliseconds a request may take. Default: 3 × the densest level, at least 20 more.", min=0.1
        ),
    ] = None,
    utilisation: Annotated[
        float, typer.Option(help="Mean rate, as a share of the densest level's capacity.", min=0.01, max=20.0)
    ] = 0.6,
    connections: Annotated[
        int, typer.Option(help="Client connections; requests take turns on them.", min=1, max=1000)
    ] = 1,
    quick: Annotated[
        bool, typer.Option("--quick", help="Two traces, with and without a busy co-runner: under four minutes.")
    ] = False,
    picture: Annotated[Path | None, typer.Option(help="Also draw a PNG of a co-runner that starts and stops.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the arrivals and their items.", min=0)] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Only the JSON line on stdout.")] = False,
) -> None:
    """Every fixed level, SlackFit and elastic, under each trace beside each co-runner; verified answers; a JSON line.

    The load is an open loop: requests leave on schedule, and latency counts from the scheduled time. All offered
    requests count; late and shed ones count as wrong. The servers stay up and take turns every few seconds, with the
    same arrivals. Every answer is compared with the output of the level that it names; wrong answers and failed
    requests end in exit code 1. It takes 20 minutes at most, with the training of the demo's model in the first run.
    Needs the [bench] extra, and [train] for labelled images.

    Example: `nested-sparse bench serving docs/examples/fashion-mnist.safetensors --trace gamma-8 --co-runner cpu`
    """
    from rich.console import Console

    from ..bench.serving.picture import refuse_foreign_picture
    from ..bench.serving.report import errors_of, print_cells, print_conditions, print_figures, report
    from ..bench.serving.run import LoadTestOptions, run_load_test

    for path, option in ((checkpoint, "FILE"), (arrivals, "--arrivals")):
        if path is not None and not path.is_file():
            raise BenchError(f"{path}: no such file ({option})")
    if model is not None and target is None:
        raise typer.BadParameter(
            "names a model of the --target; without a --target, FILE is served", param_hint="--model"
        )
    if picture is not None:
        refuse_foreign_picture(picture)
    unknown = [kind for kind in co_runner or () if kind not in CO_RUNNERS]
    if unknown:
        raise typer.BadParameter(f"{unknown[0]!r}: expected one of {', '.join(CO_RUNNERS)}", param_hint="--co-runner")
    options = LoadTestOptions(
        checkpoint=checkpoint,
        target=target,
        model=model,
        data=data,
        out=out,
        arrivals=arrivals,
        traces=tuple(trace or (QUICK_TRACES if quick else ())),
        co_runners=tuple(dict.fromkeys(co_runner or (QUICK_CO_RUNNERS if quick else CO_RUNNERS))),
        seconds=seconds or (QUICK_SECONDS if quick else SECONDS),
        slo_ms=slo_ms,
        utilisation=utilisation,
        picture=picture,
        seed=seed,
        connections=connections,
    )
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that servers and co-runners end, too
    result = run_load_test(options, Console(stderr=True))
    if not as_json:
        print_cells(result.cells, result.scored_by)
        print_figures(result.figures)
        print_conditions(result.cells, result.facts)
    print_json(report(result.cells, result.figures, result.facts))
    errors = errors_of(result.cells)
    if errors:
        raise BenchError("; ".join(errors))
