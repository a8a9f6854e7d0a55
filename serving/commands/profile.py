"""`nested-sparse profile`: the latency of each level and each layer on this device."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nested_sparse.errors import InputError
from nested_sparse.excerpt import excerpt

from .command import PATH, Whole, argument
from .costs import measure_and_write, or_dash, refuse_beside_costs
from .output import print_json, print_line, print_table

if TYPE_CHECKING:
    from nested_sparse.runtime.session import Session

NO_DOT_PRODUCTS = (
    "int8 layers ran on {isa}, without instructions for dot products of bytes: float32 may be faster on this device; "
    "--against FILE measures a float32 file of the network beside this one"
)
CLEARLY = 0.95
"""Share of a time below which another time is called shorter; less is often noise."""


@argument("file", type=PATH, help="The checkpoint.")
@click.option("--level", type=Whole(-1), default=-1, help="Level whose layers are shown; -1 is the densest.")
@click.option("--batch", type=Whole(1), multiple=True, help="Samples per run; may be repeated. Default: 1.")
@click.option("--threads", type=Whole(1), help="Threads; default: all usable cores.")
@click.option("--spin", is_flag=True, help="Threads wait awake between layers, as with `serve --spin`.")
@click.option("--repeats", type=Whole(1), default=15, help="Timed runs per level and batch, after a warm-up.")
@click.option(
    "--against",
    type=PATH,
    help="Another file of the same network, e.g. with float32 values: the two take turns, and the table says "
    "which is faster on this device.",
)
@click.option(
    "--costs",
    type=PATH,
    help="File for what a kept weight of each layer costs on this device, measured with random masks; `nest` "
    'takes it with budget_by="latency".',
)
@click.option(
    "--pattern", multiple=True, help="With --costs: pattern to measure; may be repeated. Default: each layer's own."
)
@click.option("--json", is_flag=True, help="One JSON object instead of tables.")
def profile(
    file: Path,
    level: int,
    batch: tuple[int, ...],
    threads: int | None,
    spin: bool,
    repeats: int,
    against: Path | None,
    costs: Path | None,
    pattern: tuple[str, ...],
    json: bool,
) -> None:
    """Measure the latency of every level, and of every layer at one level with the kernel that ran. Milliseconds.

    Input is random. Where noise makes a denser level faster than a sparser one, its figure is raised to the sparser
    one's. Of a size that is free, such as the length of a sequence, several are measured, one name at a time. Layers
    are timed at the first batch by ONNX Runtime's profiler, which adds some microseconds to each.

    With --costs FILE it measures the layers of the network with random masks instead, at one batch, whatever the
    weights of the checkpoint are: an untrained one does. The times of ONNX Runtime for each layer's dense weight,
    and for the whole network, are measured beside it. Where the network is faster dense, the command says so.

    Example: `nested-sparse profile model.safetensors --threads 1 --batch 1 --batch 8`
    """
    if costs is not None:
        refuse_beside_costs(level, list(batch), against)
        measure_and_write(file, costs, list(pattern), (batch or (1,))[0], threads, repeats, spin=spin, json=json)
        return
    if pattern:
        raise InputError("--pattern goes with --costs FILE, which measures patterns; a profile has the file's own")
    facts = measure(file, level, list(batch or (1,)), threads, repeats, against, spin=spin)
    if json:
        print_json(facts)
    else:
        _print(facts)


def measure(
    file: Path,
    level: int,
    batches: list[int],
    threads: int | None,
    repeats: int,
    against: Path | None = None,
    *,
    spin: bool = False,
) -> dict[str, Any]:
    """All facts that `profile` shows, ready for JSON. Raises CheckpointError, InputError, LevelError, KernelError."""
    from nested_sparse.level import resolve_level
    from nested_sparse.runtime.profiling import LatencyProfile, layer_profile
    from nested_sparse.runtime.session import Session

    files = [file] if against is None else [file, against]
    with ExitStack() as stack:
        sessions = [stack.enter_context(Session(each, threads=threads, spin=spin)) for each in files]
        session = sessions[0]
        shown = resolve_level(level, len(session.levels))  # a wrong level is refused before the measurement
        _check_alike(sessions)
        measured, *others = LatencyProfile.measure_together(sessions, batches, repeats)
        levels, used_threads, isa, int8_isa = session.levels, session.threads, session.isa, session.int8_isa
    latency = [
        {
            "level": each.index,
            "density": each.density,
            "batch": batch,
            "median_ms": measured.median_ms[each.index][place],
            "p95_ms": measured.p95_ms[each.index][place],
            "against_ms": others[0].median_ms[each.index][place] if others else None,
        }
        for each in levels
        for place, batch in enumerate(measured.batches)
    ]
    sizes = [
        {"size": each.name, "value": value, "level": level.index, "median_ms": each.ms[level.index][place]}
        for each in measured.growth
        for place, value in enumerate(each.sizes)
        for level in levels
    ]
    layers, *other_layers = (
        layer_profile(each, shown, repeats, threads=threads, spin=spin, batch=batches[0]) for each in files
    )
    against_ms = {each.layer: each.ms for times in other_layers for each in times}
    return {
        "file": str(file),
        "against": None if against is None else str(against),
        "isa": isa,
        "int8_isa": int8_isa,
        "threads": used_threads,
        "spin": spin,
        "repeats": repeats,
        "latency": latency,
        "sizes": sizes,
        "layers_level": shown,
        "layers": [
            {"layer": each.layer, "kernel": each.kernel, "ms": each.ms, "against_ms": against_ms.get(each.layer)}
            for each in layers
        ],
    }


def _check_alike(sessions: list[Session]) -> None:
    """Raises InputError where two files cannot be of one network: other inputs, outputs or numbers of levels."""
    first, *others = sessions
    for other in others:
        for what, mine, theirs in (
            ("number of levels", len(first.levels), len(other.levels)),
            ("inputs", _specs(first.inputs), _specs(other.inputs)),
            ("outputs", _specs(first.outputs), _specs(other.outputs)),
        ):
            if mine != theirs:
                raise InputError(
                    f"{other.name}: has the {what} {excerpt(theirs)}, {first.name} {excerpt(mine)}; give a file of the "
                    "same network with the same levels"
                )


def _specs(specs: Any) -> list[tuple[str, tuple[int | None, ...]]]:
    return [(spec.name, spec.shape) for spec in specs]


def _print(facts: dict[str, Any]) -> None:
    isa = facts["isa"] if facts["int8_isa"] in (None, facts["isa"]) else f"{facts['isa']} (int8: {facts['int8_isa']})"
    columns, rows = (
        ["level", "density", "batch", "median ms", "p95 ms"],
        [[*each.values()] for each in facts["latency"]],
    )
    layer_columns = ["layer", "kernel", "ms", "share %"]
    total_ms = sum(each["ms"] for each in facts["layers"])
    layer_rows = [
        [each["layer"], each["kernel"], each["ms"], 100 * each["ms"] / total_ms, or_dash(each["against_ms"])]
        for each in facts["layers"]
    ]
    if facts["against"] is None:
        rows, layer_rows = [row[:-1] for row in rows], [row[:-1] for row in layer_rows]
    else:
        columns += ["against ms", "times as fast"]
        rows = [
            [*row, each["against_ms"] / each["median_ms"]] for row, each in zip(rows, facts["latency"], strict=True)
        ]
        layer_columns += ["against ms"]
    print_table(
        f"{facts['file']}: latency, isa {isa}, threads {facts['threads']}, {facts['repeats']} runs", columns, rows
    )
    for name in dict.fromkeys(each["size"] for each in facts["sizes"]):
        print_table(
            f"latency by '{excerpt(name)}', other sizes as in the example",
            [excerpt(name), "level", "median ms"],
            [[each["value"], each["level"], each["median_ms"]] for each in facts["sizes"] if each["size"] == name],
        )
    if facts["against"] is not None:
        print_line(_verdict(facts))
    elif facts["int8_isa"] == facts["isa"]:
        print_line(NO_DOT_PRODUCTS.format(isa=facts["isa"]))
    print_table(f"layers at level {facts['layers_level']}", layer_columns, layer_rows)


def _verdict(facts: dict[str, Any]) -> str:
    """The cases in which the other file is clearly faster on this device, by the medians."""
    slower = [each for each in facts["latency"] if each["against_ms"] < CLEARLY * each["median_ms"]]
    if not slower:
        return f"{facts['against']} is in no case faster by more than {1 - CLEARLY:.0%}"
    cases = ", ".join(f"level {each['level']} at batch {each['batch']}" for each in slower)
    return f"{facts['against']} is faster on this device: {cases}"
