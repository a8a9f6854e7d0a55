"""Runs the demo: train, show the levels, serve, load, table, picture."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from nested_sparse.errors import NestedSparseError
from nested_sparse.level import Level
from nested_sparse.runtime.session import Session

from ..bench.serving.capacity import THREADS, service_times_ms
from ..bench.serving.co_runner import co_runner
from ..bench.serving.open_loop import Event, Outcome, open_loop
from ..bench.serving.picture import Shade, draw, refuse_foreign_picture
from ..bench.serving.server_process import running_server
from ..bench.serving.workload import STRIP, strips_of
from .plan import PHASES, Plan, make_plan
from .report import PhaseRow, rows_of


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """What the user may choose. data: folder of IDX files, None for the embedded digits; phase_s: seconds a phase."""

    data: Path | None
    out: Path
    picture: Path
    phase_s: float
    force: bool


def run_demo(options: DemoOptions, console: Console) -> dict[str, object]:
    """Do it all, printing to `console`; returns the figures of the final JSON line. Raises NestedSparseError."""
    try:
        from nested_sparse.trainer.demo import load_demo_data, train_demo
    except ModuleNotFoundError as error:
        raise NestedSparseError(
            f"the demo trains a model and needs {error.name}: pip install 'nested-sparse[train,bench]'"
        ) from None
    refuse_foreign_picture(options.picture, options.force)
    data = load_demo_data(options.data)
    checkpoint = train_demo(data, options.out, options.force, console)
    levels, service_ms = measure_levels(checkpoint)
    console.print(level_table(levels, service_ms, data.name))
    strips, labels = strips_of(data)
    plan = make_plan(service_ms, len(strips), options.phase_s)
    console.print(describe(plan))
    runs = drive(checkpoint, len(levels), plan, strips, console)
    rows = [row for name, outcomes in runs.items() for row in rows_of(name, outcomes, labels)]
    console.print(result_table(rows))
    densest = f"level {len(levels) - 1}"
    pictured = {"elastic": runs["elastic"], densest: runs[densest]}
    draw(options.picture, pictured, plan.slo_ms, service_ms, shades_of(plan))
    console.print(verdict(rows), f"picture: {options.picture}", sep="\n")
    return {
        "data": data.name,
        "checkpoint": str(checkpoint),
        "slo_ms": plan.slo_ms,
        "rates_per_s": plan.rate_per_s,
        "levels": [
            {"density": level.density, "flops": level.flops, "nbytes": level.nbytes, "latency_ms": ms, **level.metrics}
            for level, ms in zip(levels, service_ms, strict=True)
        ],
        "rows": [row.to_json() for row in rows],
    }


def measure_levels(checkpoint: Path) -> tuple[Sequence[Level], list[float]]:
    """The checkpoint's levels and the time each takes for one strip, milliseconds, as the server will run them."""
    with Session(checkpoint, threads=THREADS) as session:
        return session.levels, service_times_ms(session, STRIP)


def drive(
    checkpoint: Path, level_count: int, plan: Plan, strips: Sequence[NDArray[np.float32]], console: Console
) -> dict[str, list[Outcome]]:
    """The same load against each fixed level, then elastic: a fresh server process every time."""
    configurations = {f"level {level}": ["--level", str(level)] for level in range(level_count)} | {"elastic": []}
    runs = {}
    for name, flags in configurations.items():
        console.print(f"load: {name} …", style="dim")
        arguments = ["--threads", str(THREADS), "--slo-ms", str(plan.slo_ms), *flags]
        with running_server(checkpoint, arguments) as server, co_runner("cpu", [server.pid]) as neighbour:
            events = [Event(plan.begin_s[phase.name], neighbour.start) for phase in PHASES if phase.co_runner]
            load = open_loop(server.address, checkpoint.stem, plan.arrivals, strips, plan.slo_ms, events=events)
            runs[name] = asyncio.run(load)
    return runs


def shades_of(plan: Plan) -> list[Shade]:
    """The phases, for the picture."""
    ends_s = [*list(plan.begin_s.values())[1:], plan.end_s]
    return [
        Shade(phase.name, plan.begin_s[phase.name], end_s, dark=phase.co_runner)
        for phase, end_s in zip(PHASES, ends_s, strict=True)
    ]


def describe(plan: Plan) -> str:
    """The load in one line."""
    rates = ", ".join(f"{name} {rate:.0f}/s" for name, rate in plan.rate_per_s.items())
    return (
        f"load: open loop, Poisson, requests of {STRIP} images, SLO {plan.slo_ms:.0f} ms; {rates}; "
        "the co-runner is one busy process per core"
    )


def level_table(levels: Sequence[Level], service_ms: Sequence[float], data_name: str) -> Table:
    """One line a level: what it scores and what it costs."""
    table = Table(title=f"levels trained on {data_name}; latency of {STRIP} images on {THREADS} thread", box=SIMPLE)
    for column in ("level", "accuracy", "density", "MFLOP/image", "KB in file", "latency ms"):
        table.add_column(column, justify="right")
    for level, latency_ms in zip(levels, service_ms, strict=True):
        table.add_row(
            str(level.index),
            f"{level.metrics['accuracy']:.2%}",
            f"{level.density:.2%}",
            f"{level.flops / 1e6:.1f}",
            f"{level.nbytes / 1024:.0f}",
            f"{latency_ms:.2f}",
        )
    return table


def result_table(rows: Sequence[PhaseRow]) -> Table:
    """One line a configuration over all phases, with the accuracy of each phase beside it; shares in percent."""
    table = Table(title="percent of all offered requests and images; shed and late ones count as wrong", box=SIMPLE)
    names = [phase.name for phase in PHASES]
    for column in ["server", "SLO met", "accuracy", *names, "p50 ms", "p99 ms", "shed", "late", "levels used"]:
        left = column in ("server", "levels used")
        table.add_column(column, justify="left" if left else "right", no_wrap=True)
    by_key = {(row.configuration, row.phase): row for row in rows}
    for row in rows:
        if row.phase != "all":
            continue
        answered = max(1, sum(row.levels.values()))
        used = " ".join(f"{level}:{100 * count / answered:.0f}" for level, count in row.levels.items())
        table.add_row(
            row.configuration,
            f"{100 * row.attainment:.1f}",
            f"{100 * row.accuracy:.2f}",
            *(f"{100 * by_key[row.configuration, name].accuracy:.1f}" for name in names),
            f"{row.p50_ms:.1f}",
            f"{row.p99_ms:.1f}",
            str(row.shed),
            str(row.late),
            used,
            style="bold" if row.configuration == "elastic" else None,
        )
    return table


def verdict(rows: Sequence[PhaseRow]) -> str:
    """Which row is best, said plainly, also when it is not ours."""
    overall = {row.configuration: row for row in rows if row.phase == "all"}
    elastic = overall.pop("elastic")
    best = max(overall.values(), key=lambda row: row.accuracy)
    points = 100 * (elastic.accuracy - best.accuracy)
    word = "better" if points >= 0 else "WORSE"
    return (
        f"elastic: {elastic.accuracy:.2%} of all offered images right and in time, {abs(points):.2f} points {word} "
        f"than the best fixed level ({best.configuration}: {best.accuracy:.2%})"
    )
