"""`nested-sparse slice`: the first levels of a checkpoint as a file of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .output import print_json, print_line


def slice_file(
    file: Annotated[Path, typer.Argument(help="The checkpoint to cut.")],
    levels: Annotated[int, typer.Option("--levels", help="How many levels to keep: 0 to K-1.", metavar="K")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Where the new checkpoint goes.")],
    force: Annotated[bool, typer.Option("--force", help="Overwrite the output if it exists.")] = False,
    json: Annotated[bool, typer.Option("--json", help="One JSON object instead of a sentence.")] = False,
) -> None:
    """Write the prefix of a checkpoint that holds its first K levels; it runs exactly as they do in the whole.

    Example: `nested-sparse slice model.safetensors --levels 1 -o small.safetensors`
    """
    from nested_sparse.slice import slice_checkpoint

    slice_checkpoint(file, levels, output, force=force)
    before, after = file.stat().st_size, output.stat().st_size
    if json:
        print_json({"file": str(output), "levels": levels, "nbytes": after, "source_nbytes": before})
    else:
        print_line(f"wrote {output}: {levels} levels, {after:,} bytes of {before:,}")
