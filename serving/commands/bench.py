"""`nested-sparse bench`: benchmarks that verify their outputs, print a table, and end with one JSON line."""

from __future__ import annotations

import json
import platform
from typing import Annotated

import typer

from nested_sparse.errors import NestedSparseError

bench = typer.Typer(help="Benchmarks: verified outputs, a table, one JSON line last.", no_args_is_help=True)


@bench.callback()
def _group() -> None:
    """Keeps `bench kernels` a verb of its own while it is the only one."""


@bench.command("kernels")
def kernels(
    pattern: Annotated[
        str, typer.Option(help="Sparsity pattern: unstructured, block{V}x1, gs{B}x{k} or channel.")
    ] = "block4x1",
    density: Annotated[
        list[float] | None,
        typer.Option(help="Density of a level; give one per level, rising. [default: 0.0538 0.1338]"),
    ] = None,
    threads: Annotated[int, typer.Option(help="Threads of both sides.", min=1)] = 1,
    repeats: Annotated[int, typer.Option(help="Timed rounds; the contenders take turns in each.", min=1)] = 15,
    as_json: Annotated[bool, typer.Option("--json", help="Only the JSON line.")] = False,
) -> None:
    """A random ResNet-50 (224 × 224, batch 1) at every level against dense ONNX Runtime, in one process.

    The first layer is kept dense. Outputs are compared with torch before anything is timed. Needs the [train] extra.

    Example: `nested-sparse bench kernels --threads 2`
    """
    from rich.console import Console
    from rich.table import Table

    try:
        from nested_sparse.serving.bench.resnet50 import bench_resnet50

        contenders, facts = bench_resnet50(pattern, density or [0.0538, 0.1338], ["conv1"], threads, repeats)
    except ModuleNotFoundError as error:
        raise NestedSparseError(
            f"this benchmark makes its model with {error.name}: pip install 'nested-sparse[train]'"
        ) from None
    table = Table(
        title=f"ResNet-50 224², batch 1, {pattern}, {threads} thread(s), {facts['kernel']}; median of {repeats}"
    )
    for column in ("run", "density", "median ms", "times dense", "error"):
        table.add_column(column, justify="right")
    for line in contenders:
        table.add_row(
            line.name, f"{line.density:.2%}", f"{line.median_ms:.2f}", f"{line.speedup:.2f}", f"{line.max_error:.1e}"
        )
    if not as_json:
        Console().print(table)
    figures = {
        "bench": "kernels",
        "model": "resnet50",
        "pattern": pattern,
        "threads": threads,
        "machine": platform.machine(),
        **facts,
        "contenders": [
            {
                name: getattr(line, name)
                for name in ("name", "density", "median_ms", "speedup", "max_error", "samples_ms")
            }
            for line in contenders
        ],
    }
    print(json.dumps(figures))
