"""`nested-sparse profile`: the latency of each level and each layer on this device."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from .output import print_json, print_table


def profile(
    file: Annotated[Path, typer.Argument(help="The checkpoint.")],
    level: Annotated[int, typer.Option(help="Level whose layers are shown; -1 is the densest.", min=-1)] = -1,
    batch: Annotated[
        list[int] | None, typer.Option(help="Samples per run; may be repeated. Default: 1.", min=1)
    ] = None,
    threads: Annotated[int | None, typer.Option(help="Threads; default: all usable cores.", min=1)] = None,
    repeats: Annotated[int, typer.Option(help="Timed runs per level and batch, after a warm-up.", min=1)] = 15,
    json: Annotated[bool, typer.Option("--json", help="One JSON object instead of tables.")] = False,
) -> None:
    """Measure the latency of every level, and of every layer at one level with the kernel that ran. Milliseconds.

    Input is random. Where noise makes a denser level faster than a sparser one, its figure is raised to the sparser
    one's. Layers are timed at the first batch by ONNX Runtime's profiler, which adds some microseconds to each.

    Example: `nested-sparse profile model.safetensors --threads 1 --batch 1 --batch 8`
    """
    facts = measure(file, level, batch or [1], threads, repeats)
    if json:
        print_json(facts)
    else:
        _print(facts)


def measure(file: Path, level: int, batches: list[int], threads: int | None, repeats: int) -> dict[str, Any]:
    """All facts that `profile` shows, ready for JSON. Raises CheckpointError, LevelError, KernelError."""
    from nested_sparse.level import resolve_level
    from nested_sparse.runtime.profiling import LatencyProfile, layer_profile
    from nested_sparse.runtime.session import Session

    with Session(file, threads=threads) as session:
        shown = resolve_level(level, len(session.levels))  # a wrong level is refused before the measurement
        measured = LatencyProfile.measure(session, batches, repeats)
        levels, used_threads, isa = session.levels, session.threads, session.isa
    latency = [
        {
            "level": each.index,
            "density": each.density,
            "batch": batch,
            "median_ms": measured.median_ms[each.index][place],
            "p95_ms": measured.p95_ms[each.index][place],
        }
        for each in levels
        for place, batch in enumerate(measured.batches)
    ]
    layers = layer_profile(file, shown, repeats, threads=threads, batch=batches[0])
    return {
        "file": str(file),
        "isa": isa,
        "threads": used_threads,
        "repeats": repeats,
        "latency": latency,
        "layers_level": shown,
        "layers": [{"layer": each.layer, "kernel": each.kernel, "ms": each.ms} for each in layers],
    }


def _print(facts: dict[str, Any]) -> None:
    print_table(
        f"{facts['file']}: latency, isa {facts['isa']}, threads {facts['threads']}, {facts['repeats']} runs",
        ("level", "density", "batch", "median ms", "p95 ms"),
        [tuple(entry.values()) for entry in facts["latency"]],
    )
    total_ms = sum(entry["ms"] for entry in facts["layers"])
    print_table(
        f"layers at level {facts['layers_level']}",
        ("layer", "kernel", "ms", "share %"),
        [(each["layer"], each["kernel"], each["ms"], 100 * each["ms"] / total_ms) for each in facts["layers"]],
    )
