"""`nested-sparse bench serving`: an open-loop load test of every way to serve, under every condition."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import click

from nested_sparse.errors import BenchError

from .command import PATH, Number, Whole, argument
from .output import print_json

SECONDS, QUICK_SECONDS = 7.0, 6.0
QUICK_TRACES, QUICK_CO_RUNNERS = ("poisson", "gamma-8"), ("none", "cpu")
CO_RUNNERS = ("none", "cpu", "memory", "quota")


@argument(
    "checkpoint",
    type=PATH,
    required=False,
    metavar="[FILE]",
    help="Checkpoint to serve, or the one that --target serves. [default: the demo's]",
)
@click.option(
    "--target", help="HOST:PORT of a running Open Inference Protocol server, in place of servers that are started."
)
@click.option("--model", help="The target's model. [default: FILE's stem, or the target's first]")
@click.option(
    "--data",
    type=PATH,
    help="Folder of IDX files, whose images the requests carry. [default: digits; with FILE: noise]",
)
@click.option(
    "--out", type=PATH, default=Path("demo-out"), help="Folder of the demo's checkpoint; a missing one is trained."
)
@click.option("--arrivals", type=PATH, help="An .npz file of arrival times (`arrival_us`), as one trace more.")
@click.option(
    "--trace",
    multiple=True,
    help="poisson, gamma-2, gamma-4, gamma-8, ramp, or --arrivals' stem; may be repeated. Default: all.",
)
@click.option(
    "--co-runner", multiple=True, help=f"{', '.join(CO_RUNNERS)}; may be repeated. Default: all that are allowed here."
)
@click.option(
    "--seconds",
    type=Number(1.0),
    help=f"Load per server, trace and co-runner, in seconds. Default: {SECONDS:g}.",
)
@click.option(
    "--slo-ms",
    type=Number(0.1),
    help="Milliseconds a request may take. Default: 3 × the densest level, at least 20 more.",
)
@click.option(
    "--utilisation",
    type=Number(0.01, 20.0),
    default=0.6,
    help="Mean rate, as a share of the densest level's capacity.",
)
@click.option("--connections", type=Whole(1, 1000), default=1, help="Client connections; requests take turns on them.")
@click.option("--quick", is_flag=True, help="Two traces, with and without a busy co-runner: under four minutes.")
@click.option("--picture", type=PATH, help="Also draw a PNG of a co-runner that starts and stops.")
@click.option("--seed", type=Whole(0), default=0, help="Seed of the arrivals and their items.")
@click.option("as_json", "--json", is_flag=True, help="Only the JSON line on stdout.")
def serving(
    checkpoint: Path | None,
    target: str | None,
    model: str | None,
    data: Path | None,
    out: Path,
    arrivals: Path | None,
    trace: tuple[str, ...],
    co_runner: tuple[str, ...],
    seconds: float | None,
    slo_ms: float | None,
    utilisation: float,
    connections: int,
    quick: bool,
    picture: Path | None,
    seed: int,
    as_json: bool,
) -> None:
    """Every fixed level, SlackFit and elastic, under each trace beside each co-runner; verified answers; a JSON line.

    The load is an open loop: requests leave on schedule, and latency counts from the scheduled time. All offered
    requests count; late and shed ones count as wrong. The servers stay up and take turns every few seconds, with the
    same arrivals. Every answer is compared with the output of the level that it names; wrong answers and failed
    requests end in exit code 1. It takes 20 minutes at most, with the training of the demo's model in the first run.
    Needs the [bench] extra, and [train] for labelled images.

    Example: `nested-sparse bench serving docs/examples/fashion-mnist.safetensors --trace gamma-8 --co-runner cpu`
    """
    from ..bench.serving.picture import refuse_foreign_picture
    from ..bench.serving.report import errors_of, print_cells, print_conditions, print_figures, report
    from ..bench.serving.run import LoadTestOptions, run_load_test

    for path, option in ((checkpoint, "FILE"), (arrivals, "--arrivals")):
        if path is not None and not path.is_file():
            raise BenchError(f"{path}: no such file ({option})")
    if model is not None and target is None:
        raise click.BadParameter(
            "names a model of the --target; without a --target, FILE is served", param_hint="--model"
        )
    if picture is not None:
        refuse_foreign_picture(picture)
    unknown = [kind for kind in co_runner if kind not in CO_RUNNERS]
    if unknown:
        raise click.BadParameter(f"{unknown[0]!r}: expected one of {', '.join(CO_RUNNERS)}", param_hint="--co-runner")
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
    result = run_load_test(options, sys.stderr)
    if not as_json:
        print_cells(result.cells, result.scored_by)
        print_figures(result.figures)
        print_conditions(result.cells, result.facts)
    print_json(report(result.cells, result.figures, result.facts))
    errors = errors_of(result.cells)
    if errors:
        raise BenchError("; ".join(errors))
