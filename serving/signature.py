"""Signature: Ed25519 signatures of checkpoints, made with a private key and checked with its public key."""

from __future__ import annotations

import base64
import contextlib
import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nested_sparse.errors import CheckpointError, InputError
from nested_sparse.excerpt import excerpt

if TYPE_CHECKING:
    from nested_sparse.checkpoint import Checkpoint

MOST_FILE_BYTES = 1 << 16


class PublicKey:
    """The key that must have signed a checkpoint. path: of an Ed25519 public key in PEM. Raises InputError."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._key = _load(path, private=False)

    def check(self, checkpoint: Checkpoint) -> None:
        """Raise CheckpointError unless the owner of the key has signed this checkpoint, whose digests are checked."""
        seal, name = checkpoint.seal, excerpt(checkpoint.path.name)
        if not seal.signature:
            raise CheckpointError(
                f"{name}: is not signed, and the owner of {self._path} must have signed it; `nested-sparse sign {name} "
                "--key KEY` does that"
            )
        if seal.others:
            raise CheckpointError(
                f"{name}: its header also holds '{excerpt(seal.others[0])}', which no signature covers; get the file "
                "again from its maker"
            )
        if not self.fits(seal.signature, seal.message):
            raise CheckpointError(
                f"{name}: its signature does not fit {self._path}: another key has made it, or the file was changed "
                "afterwards; get the file again from its maker"
            )

    def fits(self, signature: str, message: bytes) -> bool:
        """Whether the owner of the key has made this signature, in base64, of this message."""
        from cryptography.exceptions import InvalidSignature

        try:
            self._key.verify(base64.b64decode(signature, validate=True), message)
        except (InvalidSignature, ValueError):
            return False
        return True


def signer(key_path: Path) -> Callable[[bytes], str]:
    """A function that signs a message by an Ed25519 private key, in PEM without a password, and gives base64.

    Raises InputError.
    """
    key = _load(key_path, private=True)
    return lambda message: base64.b64encode(key.sign(message)).decode()


def sign_checkpoint(path: str | os.PathLike[str], key_path: Path) -> None:
    """Put a signature by an Ed25519 private key, in PEM without a password, into the file at `path`.

    The file is replaced by renaming; all but its header stays the same. Raises CheckpointError, InputError.
    """
    from nested_sparse.amend import store_signature  # with numpy, which checking a signature does not need

    sign = signer(key_path)
    path = Path(path).resolve()  # a link stays one, and what it leads to is signed
    store_signature(path, sign)


def _load(path: Path, private: bool) -> Any:
    if find_spec("cryptography") is None:
        raise InputError(
            "signatures take the library cryptography, which is not installed; pip install 'nested-sparse[signature]'"
        )
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ed25519

    try:
        with path.open("rb") as file:
            data = file.read(MOST_FILE_BYTES)
    except OSError as error:
        raise InputError(f"key {path}: {error.strerror or error}") from None
    key: Any = None
    with contextlib.suppress(ValueError, TypeError, UnsupportedAlgorithm):
        key = serialization.load_pem_private_key(data, None) if private else serialization.load_pem_public_key(data)
    if isinstance(key, ed25519.Ed25519PrivateKey if private else ed25519.Ed25519PublicKey):
        return key
    kind, command = ("private", "genpkey -algorithm ed25519") if private else ("public", "pkey -pubout")
    raise InputError(
        f"key {path}: expected an Ed25519 {kind} key in PEM, without a password, as `openssl {command}` makes it"
    )
