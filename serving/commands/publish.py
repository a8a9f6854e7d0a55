"""`nested-sparse publish`: write the manifest with which servers fetch a checkpoint from a file server."""

from __future__ import annotations

from pathlib import Path

import click

from .command import PATH, Number, Whole, argument
from .output import print_json, print_line


@argument("file", type=PATH, help="The checkpoint to publish.")
@click.option("--output", "-o", type=PATH, help="File of the manifest; default: FILE.manifest.")
@click.option(
    "--sign", type=PATH, metavar="KEY", help="PEM file of an Ed25519 private key, without a password, that signs it."
)
@click.option(
    "--sample",
    type=PATH,
    metavar="NPZ",
    help=".npz file of an array for each input, for the self-check; default: drawn.",
)
@click.option(
    "--serial",
    type=Whole(0, 2**53),
    help="Number that rises with each publication; default: the time in seconds.",
)
@click.option("--tolerance", type=Number(0, 1), help="Share of an output's largest value by which a device may differ.")
@click.option("--json", is_flag=True, help="One JSON object instead of a sentence.")
def publish(
    file: Path,
    output: Path | None,
    sign: Path | None,
    sample: Path | None,
    serial: int | None,
    tolerance: float | None,
    json: bool,
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
