"""ModelStore: the versions of one fetched model on the disk, and the one that is still coming."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nested_sparse.errors import CheckpointError, FetchError, ServingError
from nested_sparse.excerpt import excerpt
from nested_sparse.regular_file import read_regular
from nested_sparse.whole_file import write_whole

from ..repository.names import MODEL_FILE, VERSION_NAME
from ..signature import PublicKey
from .fetch_counts import RoomError
from .manifest import HEADER_FILE, MANIFEST_FILE, MOST_BYTES, Manifest, read_manifest
from .partial import Partial

if TYPE_CHECKING:
    from .proof import Proof

KEPT = 2
"""Versions that stay: the one that is served, and the one before it, to which a start goes back."""
MOST_REFUSED = 16
READ_NBYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes of a file at hand which have, or had, the digest of a piece."""

    path: Path
    begin: int
    nbytes: int

    def read(self) -> Iterator[bytes]:
        """The bytes, as far as they are there. Raises OSError."""
        with self.path.open("rb") as file:
            file.seek(self.begin)
            left = self.nbytes
            while left and (data := file.read(min(READ_NBYTES, left))):
                left -= len(data)
                yield data


class ModelStore:
    """The folder of one model: N/model.safetensors with N/manifest and N/header, `partial` and `before`, `refused`.

    A version's folder appears whole, by renaming. The highest is served; its predecessor stays, and no other.

    Raises ServingError where another process uses the folder, or it cannot be used.
    most_bytes: the most that the versions and the download may take together.
    """

    def __init__(self, root: Path, name: str, most_bytes: int) -> None:
        self.folder = root / name
        self._most_bytes = most_bytes
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ServingError(f"{self.folder}: another server uses it; name another folder (--fetch-dir)") from None
        except OSError as error:
            raise ServingError(
                f"{self.folder}: cannot be used ({error.strerror}); name another (--fetch-dir)"
            ) from None
        for path in self.folder.glob(".*.new"):  # a killed process leaves these
            shutil.rmtree(path, ignore_errors=True)

    def close(self) -> None:
        """Give the folder free."""
        os.close(self._lock)

    @property
    def versions(self) -> list[int]:
        """The versions that are there, rising."""
        return sorted(int(path.name) for path in self.folder.iterdir() if VERSION_NAME.fullmatch(path.name))

    def newest(self, key: PublicKey | None = None) -> tuple[Proof, int] | None:
        """The proof of the highest version, and the number of its levels; None where there is none that can be read.

        key: its owner must have signed it; None: a signature is not asked for.
        """
        versions = self.versions
        if not versions:
            return None
        from .proof import Proof  # with numpy and ONNX Runtime, for which a first download does not wait

        for version in reversed(versions):
            folder = self.folder / str(version)
            with suppress(CheckpointError, OSError):
                proof = Proof.read(folder, key)
                return proof, proof.level_count((folder / MODEL_FILE).stat().st_size)
        return None

    def open_partial(self, manifest: Manifest) -> Partial:
        """The download of `manifest`, as far as it is there. That of another manifest stays beside it until clear().

        Raises RoomError where the file would not fit within the limit; OSError.
        """
        folder, before = self.folder / "partial", self.folder / "before"
        kept = _read(folder / MANIFEST_FILE)
        if kept != manifest.raw:
            if kept is not None:
                shutil.rmtree(before, ignore_errors=True)
                folder.rename(before)
            shutil.rmtree(folder, ignore_errors=True)
        self.keep_newest(1)
        folder.mkdir(exist_ok=True)
        beside = 2 * len(manifest.raw) + manifest.pieces[0].nbytes  # a download has its manifest, a version both
        missing = manifest.nbytes + beside - _nbytes(folder)
        if self._taken() + missing > self._most_bytes:
            shutil.rmtree(before, ignore_errors=True)
        if (taken := self._taken()) + missing > self._most_bytes:
            raise RoomError(
                f"{excerpt(self.folder.name)}: {missing} more bytes are needed for the new file of "
                f"{manifest.nbytes}, and {taken} are here; the limit is {self._most_bytes} (--fetch-max-mb)"
            )
        write_whole(folder / MANIFEST_FILE, manifest.raw)
        return Partial(folder / MODEL_FILE, manifest)

    def at_hand(self) -> dict[str, Span]:
        """The pieces of files that are here already, by digest; their bytes are verified when they are used."""
        spans: dict[str, Span] = {}
        for folder in (self.folder / "before", *(self.folder / str(version) for version in self.versions)):
            with suppress(CheckpointError, FetchError, OSError):
                spans.update(_spans(folder))
        return spans

    def put(self, partial: Partial, proof: Proof, level_count: int) -> int:
        """Make a version of the first levels, which are verified; gives its number.

        Raises RoomError where a slice would not fit within the limit, OSError, CheckpointError.
        """
        manifest, sliced = proof.manifest, level_count < proof.manifest.level_count
        still = manifest.nbytes - partial.nbytes  # room for the whole file is kept free, and for what lies beside it
        beside = 2 * (len(manifest.raw) + len(proof.header))
        if sliced and self._taken() + still + proof.slice_nbytes(level_count) + beside > self._most_bytes:
            raise RoomError(f"{level_count} levels beside the download would take more than --fetch-max-mb allows")
        version = max(self.versions, default=0) + 1
        new = self.folder / f".{version}.new"
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir()
        try:
            if sliced:
                data = partial.read(proof.manifest.begins[1], proof.manifest.prefix_nbytes(level_count))
                proof.write_slice(new / MODEL_FILE, level_count, data)
            else:
                partial.flush()
                partial.close()  # else the system grants no lease on it (MappedFile)
                _link(partial.path, new / MODEL_FILE)
            write_whole(new / HEADER_FILE, proof.header)
            write_whole(new / MANIFEST_FILE, proof.manifest.raw)
            new.rename(self.folder / str(version))
            self._sync()
        except BaseException:
            shutil.rmtree(new, ignore_errors=True)
            raise
        return version

    def remove(self, version: int) -> None:
        """Take a version away."""
        gone = self.folder / f".{version}.new"
        with suppress(OSError):
            (self.folder / str(version)).rename(gone)
        shutil.rmtree(gone, ignore_errors=True)

    def keep_newest(self, count: int = KEPT) -> None:
        """Take all versions away but the `count` highest."""
        for version in self.versions[:-count]:
            self.remove(version)

    def clear(self) -> None:
        """Take the download away, which has become a version."""
        for name in ("partial", "before"):
            shutil.rmtree(self.folder / name, ignore_errors=True)

    def refuse(self, manifest: Manifest) -> None:
        """Remember that this device does not take it, so that it is not fetched again."""
        known = [*self._refused(), manifest.digest][-MOST_REFUSED:]
        write_whole(self.folder / "refused", "\n".join(known).encode())

    def is_refused(self, manifest: Manifest) -> bool:
        """Whether refuse() got it before."""
        return manifest.digest in self._refused()

    def _refused(self) -> list[str]:
        return (_read(self.folder / "refused") or b"").decode("ascii", "replace").split()

    def _taken(self) -> int:
        """Bytes of all files in the folders of versions and downloads, those of two names once."""
        return _nbytes(*(path for path in self.folder.iterdir() if path.is_dir()))

    def _sync(self) -> None:
        directory = os.open(self.folder, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def _spans(folder: Path) -> dict[str, Span]:
    """Of a folder with a file and its manifest, where the file has all its bytes or is still coming."""
    raw = _read(folder / MANIFEST_FILE)
    if raw is None:
        return {}
    manifest, path = read_manifest(raw, str(folder)), folder / MODEL_FILE
    nbytes = path.stat().st_size
    if folder.name != "before" and nbytes != manifest.nbytes:  # a slice has another header
        return {}
    return {
        piece.sha256: Span(path, begin, piece.nbytes)
        for piece, begin in zip(manifest.pieces, manifest.begins, strict=False)
        if begin + piece.nbytes <= nbytes
    }


def _read(path: Path, most_nbytes: int = MOST_BYTES) -> bytes | None:
    try:
        return read_regular(path, most_nbytes)
    except OSError:
        return None


def _nbytes(*folders: Path) -> int:
    """Bytes of the files in `folders`, those of two names once."""
    found = [path.stat() for folder in folders for path in folder.iterdir()]
    return sum({each.st_ino: each.st_size for each in found}.values())


def _link(source: Path, target: Path) -> None:
    """Give the file `source` a second name, or copy it where the disk has no second names."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
        with target.open("rb") as file:
            os.fsync(file.fileno())
