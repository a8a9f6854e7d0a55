"""Runs `bench serving`: the model, the servers, the experiment, the rows, the picture."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from nested_sparse.errors import BenchError, NestedSparseError
from nested_sparse.runtime.policy import ELASTIC
from nested_sparse.runtime.session import Session
from nested_sparse.runtime.simulation import poisson

from ..neighbours import Neighbours, read_family_cpu_seconds
from .capacity import THREADS, default_slo_ms, service_times_ms
from .cell import Cell, Load, Span, chosen_traces, segments
from .co_runner import co_runner
from .comparison import best_fixed, comparison
from .contenders import own_servers, target_ms, target_server
from .device_figures import device_figures
from .experiment import CellResult, Contender, Experiment, preferred
from .figure import Figure
from .item import samples_of
from .oracle_figure import ServedLevels
from .picture import Shade, draw
from .reference import Reference, make_reference
from .workload import Workload, demo_workload, labelled_workload, random_workload

SEGMENT_S = 4.0
PICTURE_S = 18.0
SIMULATED_PER_S, MOST_SIMULATED = 200, 1400
"""Requests of a trace in the simulator: for each second of load, and the upper limit."""
RESCUE_SHARE, MOST_RESCUE_S = 6.0, 45.0
"""Time for the rescues, s: for each second of load, and the upper limit."""


@dataclass(frozen=True, slots=True)
class LoadTestOptions:
    """The user's choices. slo_ms: None derives it from the densest level's time. seconds: of load, per server and cell.

    Raises BenchError: a number that is not finite, or not above 0.
    """

    checkpoint: Path | None
    traces: tuple[str, ...]
    co_runners: tuple[str, ...]
    seconds: float
    utilisation: float = 0.6
    target: str | None = None
    model: str | None = None
    data: Path | None = None
    out: Path = Path("demo-out")
    arrivals: Path | None = None
    slo_ms: float | None = None
    picture: Path | None = None
    seed: int = 0
    connections: int = 1

    def __post_init__(self) -> None:
        for name in ("seconds", "slo_ms", "utilisation"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise BenchError(f"{name}: expected a finite number above 0, got {value}")


@dataclass(frozen=True, slots=True)
class LoadTestResult:
    """The measurements. scored_by: source of the accuracy, in words; facts: conditions, for the JSON line."""

    cells: list[CellResult]
    figures: list[Figure]
    scored_by: str
    facts: dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Servers:
    """The compared servers. service_ms: of a request on the idle device, by level; one entry for a --target.

    missing: by server, the reason why it did not start.
    """

    contenders: list[Contender]
    missing: dict[str, str]
    service_ms: list[float]
    slo_ms: float

    @property
    def levels(self) -> dict[str, int]:
        """Contenders that run at one fixed level."""
        return {each.name: each.level for each in self.contenders if each.level is not None}


def run_load_test(options: LoadTestOptions, stream: TextIO) -> LoadTestResult:
    """Run the whole load test, with progress on `stream`. Raises NestedSparseError."""
    try:
        import tritonclient.grpc  # noqa: F401 - the load's client
    except ModuleNotFoundError as error:
        raise NestedSparseError(f"the load test needs {error.name}: pip install 'nested-sparse[bench]'") from None
    traces = chosen_traces(options.traces, options.arrivals)
    workload, say = _workload(options, stream), partial(print, file=stream, flush=True)
    with ExitStack() as stack:
        session = None
        if workload.checkpoint is not None:
            session = stack.enter_context(Session(workload.checkpoint, threads=THREADS))
        servers = _servers(stack, options, workload, session, say)
        experiment = Experiment(
            contenders=servers.contenders,
            workload=workload,
            reference=make_reference(workload, session),
            load=_load(options, servers.service_ms[-1]),
            slo_ms=servers.slo_ms,
            traces=traces,
            co_runners=options.co_runners,
            seed=options.seed,
            connections=options.connections,
        )
        say(_described(experiment, servers.service_ms))
        cells, usage = _measured(experiment, say)
        figures = comparison(cells, servers.levels, experiment.reference, servers.slo_ms)
        figures = [_explained(figure, servers.missing) for figure in figures]
        if options.picture is not None:
            say("the picture's two runs")
            draw_co_runner(options.picture, experiment, best_fixed(cells, servers.levels), servers.service_ms)
    if options.target is None:
        figures += _device_figures(options, experiment, servers, say)
    facts = {**_facts(options, experiment, servers), **usage}
    return LoadTestResult(cells, figures, _scored_by(experiment.reference), facts)


def _servers(
    stack: ExitStack, options: LoadTestOptions, workload: Workload, session: Session | None, say: Callable[[str], None]
) -> _Servers:
    """The target, or servers of our own, which run until `stack` ends."""
    if options.target is not None:
        target = target_server(options.target, options.model or (session.name if session else None))
        service_ms = [target_ms(target, workload.items[0])]
        return _Servers([target], {}, service_ms, options.slo_ms or default_slo_ms(service_ms))
    assert session is not None
    service_ms = service_times_ms(session, samples_of(workload.items[0]))
    slo_ms = options.slo_ms or default_slo_ms(service_ms)
    contenders, missing = own_servers(stack, session.path, len(session.levels), slo_ms, say)
    return _Servers(contenders, missing, service_ms, slo_ms)


def _load(options: LoadTestOptions, densest_ms: float) -> Load:
    rounds = max(1, round(options.seconds / SEGMENT_S))
    return Load(1000.0 * options.utilisation / densest_ms, options.seconds / rounds, rounds)


def _measured(experiment: Experiment, say: Callable[[str], None]) -> tuple[list[CellResult], dict[str, float]]:
    """The cells, and the number of cores that the client and other processes used meanwhile."""
    begin_s, begin, neighbours = time.monotonic(), os.times(), Neighbours(read_family_cpu_seconds)
    cells = experiment.run(say)
    end, elapsed_s = os.times(), time.monotonic() - begin_s
    client_s = end.user + end.system - begin.user - begin.system
    return cells, {"client_cores": round(client_s / elapsed_s, 3), "other_load": round(neighbours.cores(), 3)}


def _device_figures(
    options: LoadTestOptions, experiment: Experiment, servers: _Servers, say: Callable[[str], None]
) -> list[Figure]:
    workload = experiment.workload
    assert workload.checkpoint is not None
    every_item = range(len(workload.items))
    accuracy = [experiment.reference.level_score(level, every_item) for level in range(len(servers.service_ms))]
    return device_figures(
        workload.checkpoint,
        ServedLevels(samples_of(workload.items[0]), servers.service_ms, accuracy, servers.slo_ms),
        say,
        requests=min(MOST_SIMULATED, round(SIMULATED_PER_S * options.seconds)),
        seed=options.seed,
        arrivals=options.arrivals,
        rescue_limit_s=min(MOST_RESCUE_S, RESCUE_SHARE * options.seconds),
    )


def _facts(options: LoadTestOptions, experiment: Experiment, servers: _Servers) -> dict[str, Any]:
    """The conditions, for the JSON line."""
    workload, load = experiment.workload, experiment.load
    return {
        "data": workload.name,
        "checkpoint": str(workload.checkpoint or ""),
        "target": options.target or "",
        "scored_by": _scored_by(experiment.reference),
        "samples_per_request": samples_of(workload.items[0]),
        "service_ms": servers.service_ms,
        "slo_ms": servers.slo_ms,
        "utilisation": options.utilisation,
        "rate_per_s": load.rate_per_s,
        "segment_s": load.segment_s,
        "rounds": load.rounds,
        "seed": options.seed,
        "connections": options.connections,
        "co_runners_unavailable": experiment.unavailable,
        "servers_unavailable": servers.missing,
    }


def draw_co_runner(path: Path, experiment: Experiment, fixed: str | None, service_ms: Sequence[float]) -> None:
    """Draw a co-runner that starts and stops: the adapting server beside the fixed level `fixed`."""
    load = replace(experiment.load, segment_s=PICTURE_S, rounds=1)
    (arrivals,) = segments(
        Cell("poisson", "cpu"),
        poisson,
        load,
        len(experiment.workload.items),
        experiment.seed,
    )
    by_name = {contender.name: contender for contender in experiment.contenders}
    shown: list[Contender] = [by_name[name] for name in (ELASTIC, fixed) if name in by_name] or [
        experiment.contenders[0]
    ]
    runs = {}
    with co_runner("cpu", [contender.pid for contender in shown]) as neighbour, preferred():
        for contender in shown:
            graded = experiment.segment(contender, arrivals, neighbour, load.span)
            runs[contender.name] = [each.outcome for each in graded]
    draw(path, runs, experiment.slo_ms, service_ms, _shades(load.span))


def _shades(span: Span) -> list[Shade]:
    return [Shade("a busy process on every core", span.begin_s, span.end_s, dark=True)]


def _workload(options: LoadTestOptions, stream: TextIO) -> Workload:
    if options.checkpoint is None and options.target is None:
        return demo_workload(options.data, options.out, stream)
    if options.checkpoint is not None and options.data is None:
        return random_workload(options.checkpoint, options.seed)
    return labelled_workload(options.checkpoint, options.data)


def _described(experiment: Experiment, service_ms: Sequence[float]) -> str:
    load, batch = experiment.load, samples_of(experiment.workload.items[0])
    times = ", ".join(f"{ms:.1f}" for ms in service_ms)
    return (
        f"load: open loop, {load.rate_per_s:.1f} requests of {batch} a second on average, SLO {experiment.slo_ms:.1f} "
        f"ms; a request takes {times} ms on the idle device; segments of {load.segment_s:.1f} s, in which a co-runner "
        "is there in the middle third"
    )


def _scored_by(reference: Reference) -> str:
    if reference.labels is not None:
        return "labels known"
    if reference.stated:
        return "no labels: the accuracy that the file states for the level served"
    return "accuracy not known: the share answered in time"


def _explained(figure: Figure, missing: dict[str, str]) -> Figure:
    """The figure; where it needs a server that did not start, it gives the reason."""
    reasons = [why for name, why in missing.items() if name in figure.name.lower()]
    return replace(figure, unavailable=reasons[0]) if figure.unavailable and reasons else figure
