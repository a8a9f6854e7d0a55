"""`nested-sparse sign`: sign a checkpoint, so that servers can tell by whom it was made."""

from __future__ import annotations

from pathlib import Path

import click

from .command import PATH, argument
from .output import print_line


@argument("file", type=PATH, help="The checkpoint to sign.")
@click.option(
    "--key", type=PATH, required=True, metavar="FILE", help="PEM file of an Ed25519 private key, without a password."
)
def sign(file: Path, key: Path) -> None:
    """Put an Ed25519 signature into the header of a checkpoint; `serve --check-signature` asks for it.

    The file is replaced by renaming, and a signature that it has is replaced, too. A change of the file, a slice for
    example, takes a new signature. Needs the [signature] extra.

    Example: `nested-sparse sign model.safetensors --key signing.pem`
    """
    from ..signature import sign_checkpoint

    sign_checkpoint(file, key)
    print_line(f"signed {file}")
