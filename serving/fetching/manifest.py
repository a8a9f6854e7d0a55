"""Manifest: the pieces of a published model and their digests, a self-check, and a signature of all of it."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nested_sparse.errors import FetchError, InputError
from nested_sparse.excerpt import excerpt
from nested_sparse.header_limit import MAX_HEADER_NBYTES

from ..signature import PublicKey
from .address import SUFFIX
from .self_check import SelfCheck

FORMAT = "nested-sparse manifest 1"
MANIFEST_FILE, HEADER_FILE = "manifest", "header"
"""Names of the files beside a fetched model: its manifest, and the header of the whole file."""
BEGIN = f'{{"format":"{FORMAT}"'.encode()
"""Each manifest begins so."""
MOST_BYTES = 4 << 20
"""Most bytes of a manifest; a reader reads no more."""
MOST_LEVELS = 32
MOST_PIECE_NBYTES = 1 << 44
MOST_SERIAL = 2**53
CONTEXT = b"nested-sparse manifest\n"
DIGEST = re.compile(r"[0-9a-f]{64}")


class ManifestError(FetchError):
    """A manifest that this device does not take."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A run of bytes of the file: the header, the graph, or what one level adds. sha256: in hexadecimal digits."""

    nbytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """All that a device must know of a file before it trusts a byte of it.

    serial: rises with each publication; a device never goes back to a lower one.
    pieces: the header, the graph, and the segment of each level, in the order of the file; together they are the file.
    self_check: inputs and the outputs that they must give at each level.
    raw: the bytes of the manifest, which its signature covers but for the last line.
    """

    serial: int
    pieces: tuple[Piece, ...]
    self_check: SelfCheck
    raw: bytes = b""

    @property
    def nbytes(self) -> int:
        """Bytes of the whole file."""
        return sum(piece.nbytes for piece in self.pieces)

    @property
    def level_count(self) -> int:
        """Number of levels."""
        return len(self.pieces) - 2

    @property
    def begins(self) -> tuple[int, ...]:
        """The byte at which each piece begins, and the end of the last."""
        return (0, *itertools.accumulate(piece.nbytes for piece in self.pieces))

    @property
    def digest(self) -> str:
        """SHA-256 of the signed part, which tells two manifests apart."""
        return hashlib.sha256(_parts(self.raw)[0]).hexdigest()

    def prefix_nbytes(self, level_count: int) -> int:
        """Bytes of the file up to the end of level `level_count` - 1."""
        return self.begins[level_count + 2]

    def signed(self, sign: Callable[[bytes], str] | None = None) -> Manifest:
        """The same with its bytes: a line of JSON, and a line with its signature where there is `sign`."""
        said = {
            "format": FORMAT,
            "serial": self.serial,
            "pieces": [asdict(piece) for piece in self.pieces],
            "self_check": self.self_check.to_json(),
        }
        raw = json.dumps(said, separators=(",", ":"), allow_nan=False).encode() + b"\n"
        if sign is not None:
            raw += json.dumps({"signature": sign(_message(raw))}).encode() + b"\n"
        return Manifest(self.serial, self.pieces, self.self_check, raw)


def read_manifest(raw: bytes, where: str, key: PublicKey | None = None) -> Manifest:
    """The manifest that `raw` holds, whatever wrote it. where: its address, for errors.

    key: its owner must have signed it; None: a signature is not looked at. The signature is checked before anything is
    parsed. Raises ManifestError.
    """
    if len(raw) > MOST_BYTES:
        raise ManifestError(f"{where}: expected a manifest of at most {MOST_BYTES} bytes, got {len(raw)}")
    said, signature = _parts(raw)
    if key is not None:
        _check_signature(said, signature, where, key)
    try:
        content = json.loads(said)
        if content["format"] != FORMAT:
            raise ManifestError(
                f"{where}: expected the format '{FORMAT}', got '{excerpt(content['format'])}'; upgrade nested-sparse, "
                "or publish the file again"
            )
        pieces = tuple(_piece(each, index) for index, each in enumerate(_listed(content["pieces"])))
        serial = _whole(content["serial"], 0, MOST_SERIAL)
        return Manifest(serial, pieces, SelfCheck.of_json(content["self_check"], len(pieces) - 2), raw)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        reason = f"{type(error).__name__}: {excerpt(error)}"
        raise ManifestError(
            f"{where}: is no manifest of ours ({reason}); `nested-sparse publish FILE` writes one"
        ) from None


def manifest_path(path: Path) -> Path:
    """The path of the manifest of the file at `path`. Raises InputError for a path without a file's name."""
    if not path.name:
        raise InputError(f"{path}: expected the path of a file")
    return path.with_name(path.name + SUFFIX)


def _parts(raw: bytes) -> tuple[bytes, bytes]:
    """The signed part, with its line feed, and the rest."""
    said, feed, rest = raw.partition(b"\n")
    return said + feed, rest


def _message(said: bytes) -> bytes:
    return CONTEXT + hashlib.sha256(said).hexdigest().encode()


def _check_signature(said: bytes, line: bytes, where: str, key: PublicKey) -> None:
    if not line.strip():
        raise ManifestError(
            f"{where}: is not signed, and the owner of the key of --check-signature must have signed it; "
            "`nested-sparse publish FILE --sign KEY` does that"
        )
    try:
        signature = str(json.loads(line[:1000])["signature"])
    except (ValueError, KeyError, TypeError, RecursionError):
        signature = ""
    if not key.fits(signature, _message(said)):
        raise ManifestError(
            f"{where}: its signature does not fit the key of --check-signature: another key has made it, or it was "
            "changed afterwards"
        )


def _listed(value: Any) -> list[Any]:
    if not isinstance(value, list) or not 3 <= len(value) <= MOST_LEVELS + 2:
        raise ValueError(f"pieces: expected a list of the header, the graph and 1 to {MOST_LEVELS} levels")
    return value


def _piece(value: Any, index: int) -> Piece:
    nbytes = _whole(value["nbytes"], 1, MAX_HEADER_NBYTES + 8 if index == 0 else MOST_PIECE_NBYTES)
    digest = value["sha256"]
    if not isinstance(digest, str) or not DIGEST.fullmatch(digest):
        raise ValueError(f"sha256: expected 64 hexadecimal digits, got {excerpt(repr(digest), 80)}")
    return Piece(nbytes, digest)


def _whole(value: Any, least: int, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ValueError(f"expected a whole number from {least} to {most}, got {excerpt(repr(value), 80)}")
    return value
