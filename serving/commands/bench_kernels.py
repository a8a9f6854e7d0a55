"""`nested-sparse bench kernels`: our kernels beside dense ONNX Runtime and other engines."""

from __future__ import annotations

import tempfile
from pathlib import Path

import click

from nested_sparse.errors import NestedSparseError

from .command import PATH, Number, Whole
from .output import print_json

REPEATS, QUICK_REPEATS = 21, 5


@click.option(
    "--rows",
    multiple=True,
    help="Rows to measure, by name or by a pattern like 'linear-*'; may be repeated. Default: the table's.",
)
@click.option("--pattern", help="ResNet-50 with this sparsity pattern in place of the table's rows.")
@click.option(
    "--density",
    type=Number(0.0, 1.0),
    multiple=True,
    help="ResNet-50 at these densities, one per level, in place of the table's rows; may be repeated.",
)
@click.option("--values", help="ResNet-50 with weights stored like this in place of the table's rows.")
@click.option("--threads", type=Whole(1), help="Threads of both sides, for all rows. Default: each row's own.")
@click.option("--repeats", type=Whole(1), help=f"Timed rounds; the contenders take turns in each. Default: {REPEATS}.")
@click.option("--quick", is_flag=True, help=f"{QUICK_REPEATS} rounds.")
@click.option("--layers", is_flag=True, help="Also a table per kind of convolution, both sides.")
@click.option("--peers", is_flag=True, help="Also DeepSparse, MNN, OpenVINO and ONNX Runtime, in float32 and in int8.")
@click.option(
    "--peers-folder",
    type=PATH,
    default=Path("build/peers"),
    help="Folder of the peers' environments; missing ones are made.",
)
@click.option("as_json", "--json", is_flag=True, help="Only the JSON line.")
def kernels(
    rows: tuple[str, ...],
    pattern: str | None,
    density: tuple[float, ...],
    values: str | None,
    threads: int | None,
    repeats: int | None,
    quick: bool,
    layers: bool,
    peers: bool,
    peers_folder: Path,
    as_json: bool,
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
    specs = chosen(list(rows), own if mine else None, threads, peers=peers, layers=layers)
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
