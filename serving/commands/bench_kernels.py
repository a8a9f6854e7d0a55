"""`nested-sparse bench kernels`: our kernels beside dense ONNX Runtime and other engines."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from nested_sparse.errors import NestedSparseError

from .output import print_json

REPEATS, QUICK_REPEATS = 21, 5


def kernels(
    rows: Annotated[
        list[str] | None,
        typer.Option(
            help="Rows to measure, by name or by a pattern like 'linear-*'; may be repeated. Default: the table's."
        ),
    ] = None,
    pattern: Annotated[
        str | None, typer.Option(help="ResNet-50 with this sparsity pattern in place of the table's rows.")
    ] = None,
    density: Annotated[
        list[float] | None,
        typer.Option(
            help="ResNet-50 at these densities, one per level, in place of the table's rows; may be repeated.",
            min=0.0,
            max=1.0,
        ),
    ] = None,
    values: Annotated[
        str | None, typer.Option(help="ResNet-50 with weights stored like this in place of the table's rows.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(help="Threads of both sides, for all rows. Default: each row's own.", min=1)
    ] = None,
    repeats: Annotated[
        int | None, typer.Option(help=f"Timed rounds; the contenders take turns in each. Default: {REPEATS}.", min=1)
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help=f"{QUICK_REPEATS} rounds.")] = False,
    layers: Annotated[bool, typer.Option("--layers", help="Also a table per kind of convolution, both sides.")] = False,
    peers: Annotated[
        bool, typer.Option("--peers", help="Also DeepSparse, MNN, OpenVINO and ONNX Runtime, in float32 and in int8.")
    ] = False,
    peers_folder: Annotated[
        Path, typer.Option(help="Folder of the peers' environments; missing ones are made.")
    ] = Path("build/peers"),
    as_json: Annotated[bool, typer.Option("--json", help="Only the JSON line.")] = False,
) -> None:
    """Our kernels against dense ONNX Runtime, in float32 and int8: ResNet-50, MobileNetV2, linear layers, levels.

    Each row says the ratio that it is to reach. Every output is compared with torch first. Then both sides are timed,
    in turns, in one process. Layers are pruned to the row's density; the first convolution and depthwise ones are kept
    dense. A row that cannot be measured gives the reason. Needs the [train] extra. `--peers` downloads the peers, each
    into an environment of its own.

    Example: `nested-sparse bench kernels --rows 'resnet50-block4x1-*' --threads 2`
    """
    try:
        import torch  # noqa: F401 - every row's model is made with it

        from nested_sparse.value_type import value_type

        from ..bench.kernels.measure import measure_rows
        from ..bench.kernels.model_cache import ModelCache
        from ..bench.kernels.report import print_layers, print_rows, report
        from ..bench.kernels.table import DENSITIES, Settings, chosen, measured
    except ModuleNotFoundError as error:
        raise NestedSparseError(
            f"this benchmark makes its models with {error.name}: pip install 'nested-sparse[train]'"
        ) from None
    own = (pattern or "block4x1", tuple(density or DENSITIES), value_type(values or "float32").name)
    mine = pattern is not None or density or values is not None
    specs = chosen(rows or [], own if mine else None, threads, peers=peers, layers=layers)
    rounds = repeats or (QUICK_REPEATS if quick else REPEATS)
    settings = Settings(rounds, peers_folder)
    with tempfile.TemporaryDirectory(prefix="nested-sparse-") as folder:
        cache = ModelCache(Path(folder))
        results = list(measured(specs, settings, lambda group, how: measure_rows(group, how, cache)))
    if not as_json:
        print_rows(results, rounds)
        if layers:
            print_layers(results)
    print_json(report(results))
