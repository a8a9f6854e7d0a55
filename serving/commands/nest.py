"""`nested-sparse nest`: a checkpoint of nested levels from an ONNX file, without training."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nested_sparse.errors import ExportError

from .command import PATH, argument
from .inspect import describe
from .output import print_json, print_line, print_table

if TYPE_CHECKING:
    from nested_sparse.trainer.post_training.report import LevelReport


@argument("model", type=PATH, help="The ONNX file.")
@click.option(
    "--calibration",
    type=PATH,
    required=True,
    help="NPZ file: an array for each input, samples along its first dimension.",
)
@click.option(
    "--density",
    type=float,
    multiple=True,
    required=True,
    metavar="D",
    help="Share of the weights that a level keeps; once for each level, rising.",
)
@click.option("--output", "-o", type=PATH, required=True, help="File of the new checkpoint.")
@click.option(
    "--pattern", help="unstructured, block{V}x1, gs{B}x{k} or channel. Default: one that fits the file's zeros."
)
@click.option("--budget", help="uniform, global or erk.")
@click.option("--values", default="float32", help="Type of the stored weights: float32, float16 or int8.")
@click.option("--keep-dense", multiple=True, metavar="NAME", help="A layer that stays whole, or a pattern of names.")
@click.option("--labels", metavar="NAME", help="Array of the NPZ file that holds each sample's class index.")
@click.option(
    "--samples", type=int, help="Number of samples to use, from the first on. Default: 256, or fewer large ones."
)
@click.option("--size", multiple=True, metavar="NAME=N", help="A free size of the model that becomes fixed.")
@click.option(
    "--report/--no-report", default=True, help="Measure what each layer costs, and name those worth keeping dense."
)
@click.option(
    "--solve",
    is_flag=True,
    help="Let a densest level that drops nothing differ from the file, for better sparse levels.",
)
@click.option("--force", is_flag=True, help="Replace the output if it exists.")
@click.option("--json", is_flag=True, help="One JSON object instead of a table.")
def nest(
    model: Path,
    calibration: Path,
    density: tuple[float, ...],
    output: Path,
    pattern: str | None,
    budget: str | None,
    values: str,
    keep_dense: tuple[str, ...],
    labels: str | None,
    samples: int | None,
    size: tuple[str, ...],
    report: bool,
    solve: bool,
    force: bool,
    json: bool,
) -> None:
    """Make a checkpoint of nested levels from an ONNX file, and compare every level with ONNX Runtime.

    The masks and values of the levels follow from the samples alone; nothing is trained. Of a file that is sparse
    already, the last level has the file's own zeros, and answers as the file does; so does a last `--density 1`. All
    levels then have the file's values. Sparser levels are better where values are solved for: `--solve`.

    Example: `nested-sparse nest model.onnx --calibration data.npz --density 0.1 --density 1 -o model.safetensors`
    """
    try:
        from nested_sparse.trainer import nest_onnx
    except ModuleNotFoundError as error:
        raise ExportError(f"nest needs {error.name}: pip install 'nested-sparse[train]'") from None
    from nested_sparse.checkpoint import Checkpoint

    made = nest_onnx(
        model,
        calibration,
        output,
        densities=density,
        pattern=pattern,
        budget=budget,
        values=values,
        keep_dense=keep_dense,
        labels=labels,
        samples=samples,
        sizes=dict(map(_named_size, size)),
        keep_values=False if solve else None,
        force=force,
        report=report,
    )
    with Checkpoint.open(output) as checkpoint:
        facts = describe(checkpoint)
    if json:
        print_json({**facts, "report": None if made.report is None else _report_facts(made.report)})
        return
    names = sorted({name for level in facts["levels"] for name in level["metrics"]})
    rows = [
        [
            str(level["level"]),
            f"{level['density']:.2%}",
            f"{level['flops'] / 1e6:.2f}",
            f"{level['nbytes'] / 1024:.0f}",
            *(f"{level['metrics'][name]:.2%}" for name in names),
        ]
        for level in facts["levels"]
    ]
    print_table(str(output), ["level", "density", "MFLOP", "KB in file", *names], rows)
    if made.report is not None:
        for line in str(made.report).splitlines():
            print_line(line)
    print_line(f"wrote {output}: {len(facts['layers'])} nested layers; `nested-sparse inspect` shows them")


def _report_facts(report: LevelReport) -> dict[str, Any]:
    return {**asdict(report), "keep_dense": list(report.keep_dense)}


def _named_size(text: str) -> tuple[str, int]:
    name, _, number = text.rpartition("=")
    if not name or not number.isdecimal() or int(number) < 1:
        raise click.BadParameter(f"--size: expected NAME=N with a whole number N above 0, got {text!r}")
    return name, int(number)
