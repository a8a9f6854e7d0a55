"""`nested-sparse slice`: write the first levels of a checkpoint to a file of their own."""

from __future__ import annotations

from pathlib import Path

import click

from .command import PATH, argument
from .output import print_json, print_line


@argument("file", type=PATH, help="The checkpoint to cut.")
@click.option("--levels", type=int, required=True, metavar="K", help="Number of levels to keep: 0 to K-1.")
@click.option("--output", "-o", type=PATH, required=True, help="File of the new checkpoint.")
@click.option("--force", is_flag=True, help="Replace the output if it exists.")
@click.option("--json", is_flag=True, help="One JSON object instead of a sentence.")
def slice_file(file: Path, levels: int, output: Path, force: bool, json: bool) -> None:
    """Write the first K levels of a checkpoint to a file; they answer bit for bit as in the whole checkpoint.

    Example: `nested-sparse slice model.safetensors --levels 1 -o small.safetensors`
    """
    from nested_sparse.slice import slice_checkpoint

    slice_checkpoint(file, levels, output, force=force)
    before, after = file.stat().st_size, output.stat().st_size
    if json:
        print_json({"file": str(output), "levels": levels, "nbytes": after, "source_nbytes": before})
    else:
        print_line(f"wrote {output}: {levels} levels, {after:,} bytes of {before:,}")
