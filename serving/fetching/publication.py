"""Publication: a checkpoint as a file server offers it, which is the file and its manifest."""

from __future__ import annotations

import hashlib
import time
from contextlib import suppress
from pathlib import Path

import numpy as np

from nested_sparse.checkpoint import Checkpoint
from nested_sparse.errors import CheckpointError, FetchError, InputError
from nested_sparse.excerpt import excerpt
from nested_sparse.regular_file import read_regular
from nested_sparse.runtime.session import Array, Session
from nested_sparse.whole_file import write_whole
from nested_sparse.writer import refuse_existing

from ..signature import signer
from .manifest import BEGIN, MOST_BYTES, Manifest, Piece, manifest_path, read_manifest
from .self_check import MOST_INPUT_NBYTES, TOLERANCE
from .self_check_run import self_check_of


def publish(
    path: Path,
    output: Path | None = None,
    *,
    key_path: Path | None = None,
    sample: Path | None = None,
    serial: int | None = None,
    tolerance: float = TOLERANCE,
) -> tuple[Path, Manifest]:
    """Write the manifest of the checkpoint at `path`, after running its self-check at every level; gives its path.

    output: where; None: beside the file. key_path: Ed25519 private key that signs it, in PEM; None: it is not signed.
    sample: .npz file of the inputs of the self-check, by name; None: they are drawn. serial: None: the time in seconds.
    Raises CheckpointError, InputError, KernelError, OSError.
    """
    destination = output or manifest_path(path)
    serial = int(time.time()) if serial is None else serial
    _check_replaceable(destination, serial)
    sign = None if key_path is None else signer(key_path)
    inputs = None if sample is None else _sample(sample)
    pieces: list[Piece] = []
    with Session(path, threads=1, check=lambda checkpoint: pieces.extend(_pieces(checkpoint))) as session:
        check = self_check_of(session, inputs, tolerance)
    manifest = Manifest(serial, tuple(pieces), check).signed(sign)
    write_whole(destination, manifest.raw)
    return destination, manifest


def _check_replaceable(path: Path, serial: int) -> None:
    """Raise CheckpointError where no manifest can be written there.

    Raises InputError where another file would be lost, or where devices would refuse the new manifest.
    """
    refuse_existing(path, force=True)
    if not path.exists() or not path.stat().st_size:
        return
    with path.open("rb") as file:
        there = file.read(MOST_BYTES + 1)
    if not there.startswith(BEGIN):
        raise InputError(
            f"{excerpt(path)}: exists already and is no manifest, so it is not replaced; name another file (--output), "
            "or remove it"
        )
    with suppress(FetchError):  # a damaged one is replaced
        before = read_manifest(there, excerpt(path)).serial
        if serial < before:
            raise InputError(
                f"{excerpt(path)}: has the serial {before}, and devices that have it refuse the lower {serial}; give "
                f"--serial {before + 1}, or set the clock"
            )


def _pieces(checkpoint: Checkpoint) -> list[Piece]:
    metadata, data = checkpoint.metadata, checkpoint.file.data
    header_nbytes = len(data) - checkpoint.levels[-1].nbytes
    segments = [checkpoint.segment(level.index).nbytes for level in checkpoint.levels]
    return [
        Piece(header_nbytes, hashlib.sha256(data[:header_nbytes].tobytes()).hexdigest()),
        Piece(checkpoint.levels[0].nbytes - segments[0], metadata.graph_sha256),
        *(Piece(nbytes, level.sha256) for nbytes, level in zip(segments, metadata.levels, strict=True)),
    ]


def _sample(path: Path) -> dict[str, Array]:
    try:
        read_regular(path, 2 * MOST_INPUT_NBYTES)  # a sample that is too large is refused before it is unpacked
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            raise ValueError("it holds one array without a name; numpy.savez writes one with names")
        with loaded as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, AttributeError, KeyError) as error:
        raise InputError(f"sample {excerpt(path)}: expected an .npz file of arrays ({excerpt(error)})") from None
    except Exception as error:  # zipfile's own errors
        raise CheckpointError(f"sample {excerpt(path)}: cannot be read ({excerpt(error)})") from None
