"""Runs the demo: trains, shows the levels, serves, loads, prints the table, draws the picture."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TextIO

import numpy as np
from numpy.typing import NDArray

from nested_sparse.errors import NestedSparseError
from nested_sparse.level import Level
from nested_sparse.runtime.session import Session

from ..bench.serving.capacity import THREADS, service_times_ms
from ..bench.serving.co_runner import co_runner
from ..bench.serving.open_loop import Event, Outcome, open_loop
from ..bench.serving.picture import Shade, draw, refuse_foreign_picture
from ..bench.serving.server_process import running_server
from ..bench.serving.workload import STRIP, strips_of
from ..commands.output import table_text
from .plan import PHASES, LoadPlan, make_plan
from .report import PhaseRow, rows_of


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """The user's choices. data: folder of IDX files; None: the embedded digits. phase_s: seconds of a whole phase."""

    data: Path | None
    out: Path
    picture: Path
    phase_s: float
    force: bool


@dataclass(frozen=True, slots=True)
class Served:
    """A server of the demo. level: its fixed level; None: it chooses."""

    checkpoint: Path
    level: int | None = None


def run_demo(options: DemoOptions, stream: TextIO) -> dict[str, object]:
    """Run the demo, printing to `stream`; returns the figures of the JSON line. Raises NestedSparseError."""
    say = partial(print, file=stream, flush=True)
    try:
        from nested_sparse.trainer.demo import int8_twin, load_demo_data, train_demo
    except ModuleNotFoundError as error:
        raise NestedSparseError(
            f"the demo trains a model and needs {error.name}: pip install 'nested-sparse[train,bench]'"
        ) from None
    refuse_foreign_picture(options.picture, options.force)
    data = load_demo_data(options.data)
    checkpoint = train_demo(data, options.out, options.force, stream)
    levels, service_ms = measure_levels(checkpoint)
    measured = {"float32": (levels, service_ms)}
    configurations = {f"level {level}": Served(checkpoint, level) for level in range(len(levels))}
    configurations["elastic"] = Served(checkpoint)
    if int8_twin(checkpoint).exists():  # not beside a file of an earlier version's demo
        measured["int8"] = measure_levels(int8_twin(checkpoint))
        configurations["elastic int8"] = Served(int8_twin(checkpoint))
    say(level_table(measured, data.name))
    strips, labels = strips_of(data)
    plan = make_plan(service_ms, len(strips), options.phase_s)
    say(load_text(plan))
    runs = load_servers(configurations, plan, strips, say)
    rows = [row for name, outcomes in runs.items() for row in rows_of(name, outcomes, labels)]
    say(result_table(rows))
    densest = f"level {len(levels) - 1}"
    pictured = {"elastic": runs["elastic"], densest: runs[densest]}
    draw(options.picture, pictured, plan.slo_ms, service_ms, shades_of(plan))
    say(verdict(rows), f"picture: {options.picture}", sep="\n")
    return {
        "data": data.name,
        "checkpoint": str(checkpoint),
        "slo_ms": plan.slo_ms,
        "rates_per_s": plan.rate_per_s,
        "levels": [
            {
                "values": values,
                "density": level.density,
                "flops": level.flops,
                "nbytes": level.nbytes,
                "latency_ms": ms,
                **level.metrics,
            }
            for values, (levels, service_ms) in measured.items()
            for level, ms in zip(levels, service_ms, strict=True)
        ],
        "rows": [row.to_json() for row in rows],
    }


def measure_levels(checkpoint: Path) -> tuple[Sequence[Level], list[float]]:
    """The checkpoint's levels, and the time of each for one strip, ms, on as many threads as the server has."""
    with Session(checkpoint, threads=THREADS) as session:
        return session.levels, service_times_ms(session, STRIP)


def load_servers(
    configurations: Mapping[str, Served],
    plan: LoadPlan,
    strips: Sequence[NDArray[np.float32]],
    say: Callable[[str], None],
) -> dict[str, list[Outcome]]:
    """The outcomes of the same load on each configuration, which has a process of its own."""
    runs = {}
    for name, served in configurations.items():
        say(f"load: {name} …")
        level = [] if served.level is None else ["--level", str(served.level)]
        arguments = ["--threads", str(THREADS), "--slo-ms", str(plan.slo_ms), *level]
        with running_server(served.checkpoint, arguments) as server, co_runner("cpu", [server.pid]) as neighbour:
            events = [Event(plan.begin_s[phase.name], neighbour.start) for phase in PHASES if phase.co_runner]
            model = served.checkpoint.stem
            load = open_loop(server.address, model, plan.arrivals, strips, plan.slo_ms, events=events)
            runs[name] = asyncio.run(load)
    return runs


def shades_of(plan: LoadPlan) -> list[Shade]:
    """The phases, for the picture."""
    ends_s = [*list(plan.begin_s.values())[1:], plan.end_s]
    return [
        Shade(phase.name, plan.begin_s[phase.name], end_s, dark=phase.co_runner)
        for phase, end_s in zip(PHASES, ends_s, strict=True)
    ]


def load_text(plan: LoadPlan) -> str:
    """The load in one line."""
    rates = ", ".join(f"{name} {rate:.0f}/s" for name, rate in plan.rate_per_s.items())
    return (
        f"load: open loop, Poisson, requests of {STRIP} images, SLO {plan.slo_ms:.0f} ms; {rates}; "
        "the co-runner is one busy process per core"
    )


def level_table(measured: Mapping[str, tuple[Sequence[Level], Sequence[float]]], data_name: str) -> str:
    """The table of levels: a line each, with accuracy and cost. measured: levels and latencies, by type of values."""
    columns = ("values", "level", "accuracy", "density", "MFLOP/image", "KB in file", "latency ms")
    rows = [
        (
            values,
            str(level.index),
            f"{level.metrics['accuracy']:.2%}",
            f"{level.density:.2%}",
            f"{level.flops / 1e6:.1f}",
            f"{level.nbytes / 1024:.0f}",
            f"{latency_ms:.2f}",
        )
        for values, (levels, service_ms) in measured.items()
        for level, latency_ms in zip(levels, service_ms, strict=True)
    ]
    title = f"levels trained on {data_name}; latency of {STRIP} images on {THREADS} thread"
    return f"\n{title}\n{table_text(columns, rows, [column != 'values' for column in columns])}\n"


def result_table(rows: Sequence[PhaseRow]) -> str:
    """The table of results: a line for each configuration over all phases, with the accuracy of each phase, in %."""
    names = [phase.name for phase in PHASES]
    columns = ("server", "SLO met", "accuracy", *names, "p50 ms", "p99 ms", "shed", "late", "levels used")
    by_key = {(row.configuration, row.phase): row for row in rows}
    lines = []
    for row in rows:
        if row.phase != "all":
            continue
        answered = max(1, sum(row.levels.values()))
        used = " ".join(f"{level}:{100 * count / answered:.0f}" for level, count in row.levels.items())
        lines.append(
            (
                row.configuration,
                f"{100 * row.attainment:.1f}",
                f"{100 * row.accuracy:.2f}",
                *(f"{100 * by_key[row.configuration, name].accuracy:.1f}" for name in names),
                f"{row.p50_ms:.1f}",
                f"{row.p99_ms:.1f}",
                str(row.shed),
                str(row.late),
                used,
            )
        )
    title = "percent of all offered requests and images; shed and late ones count as wrong"
    right = [column not in ("server", "levels used") for column in columns]
    return f"\n{title}\n{table_text(columns, lines, right)}\n"


def verdict(rows: Sequence[PhaseRow]) -> str:
    """A sentence that compares elastic with the best fixed level, whichever is better."""
    overall = {row.configuration: row for row in rows if row.phase == "all"}
    elastic = overall["elastic"]
    best = max((row for name, row in overall.items() if "elastic" not in name), key=lambda row: row.accuracy)
    points = 100 * (elastic.accuracy - best.accuracy)
    word = "better" if points >= 0 else "WORSE"
    return (
        f"elastic: {elastic.accuracy:.2%} of all offered images right and in time, {abs(points):.2f} points {word} "
        f"than the best fixed level ({best.configuration}: {best.accuracy:.2%})"
    )
