"""`nested-sparse publish`: write the manifest with which servers fetch a checkpoint from a file server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .output import print_json, print_line


def publish(
    file: Annotated[Path, typer.Argument(help="The checkpoint to publish.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File of the manifest; default: FILE.manifest.")
    ] = None,
    sign: Annotated[
        Path | None,
        typer.Option(help="PEM file of an Ed25519 private key, without a password, that signs it.", metavar="KEY"),
    ] = None,
    sample: Annotated[
        Path | None,
        typer.Option(help=".npz file of an array for each input, for the self-check; default: drawn.", metavar="NPZ"),
    ] = None,
    serial: Annotated[
        int | None,
        typer.Option(help="Number that rises with each publication; default: the time in seconds.", min=0, max=2**53),
    ] = None,
    tolerance: Annotated[
        float | None,
        typer.Option(help="Share of an output's largest value by which a device may differ.", min=0, max=1),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object instead of a sentence.")] = False,
) -> None:
    """Write the manifest of a checkpoint: its levels, their digests, a sample with the answer of each level.

    Put the checkpoint and then its manifest into a folder of any file server; `nested-sparse serve URL` does the rest.
    Publish each new file again, under the same name. `--sign` needs the [signature] extra.

    Example: `nested-sparse publish model.safetensors --sign signing.pem`
    """
    from ..fetching.publication import publish as write
    from ..fetching.self_check import TOLERANCE

    path, manifest = write(
        file,
        output,
        key_path=sign,
        sample=sample,
        serial=serial,
        tolerance=TOLERANCE if tolerance is None else tolerance,
    )
    if json:
        facts = {"levels": manifest.level_count, "nbytes": manifest.nbytes, "serial": manifest.serial}
        print_json({"manifest": str(path), **facts, "signed": sign is not None})
    else:
        signed = "signed" if sign is not None else "not signed"
        print_line(f"wrote {path}: {manifest.level_count} levels, {manifest.nbytes:,} bytes, {signed}")
