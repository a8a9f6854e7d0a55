"""`nested-sparse slice`: write the first levels of a checkpoint to a file of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .output import print_json, print_line


def slice_file(
    file: Annotated[Path, typer.Argument(help="The checkpoint to cut.")],
    levels: Annotated[int, typer.Option("--levels", help="Number of levels to keep: 0 to K-1.", metavar="K")],
    output: Annotated[Path, typer.Option("--output", "-o", help="File of the new checkpoint.")],
    force: Annotated[bool, typer.Option("--force", help="Replace the output if it exists.")] = False,
    json: Annotated[bool, typer.Option("--json", help="One JSON object instead of a sentence.")] = False,
) -> None:
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
