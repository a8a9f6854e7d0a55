"""Partial: a file that is still coming, piece by piece, each verified when it is whole."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from nested_sparse.errors import FetchError

from .manifest import Manifest

READ_NBYTES = 1 << 20


class WrongBytesError(FetchError):
    """A piece came whole and does not have the digest that the manifest states."""


class Partial:
    """The first bytes of the file that `manifest` describes, at `path`, which may be there from a stopped download.

    The file is its own journal: on opening, its bytes are hashed again, and those that do not verify are dropped. A
    journal beside it could say more than the disk holds after a power cut.

    nbytes: number of bytes that are there. verified: number of pieces that are whole and right. Raises OSError.
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path, self.manifest = path, manifest
        self._begins = manifest.begins
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self.nbytes = self.verified = 0
        self._hash = hashlib.sha256()
        try:
            self._scan()
        except BaseException:
            self.close()
            raise

    @property
    def complete(self) -> bool:
        """Whether all pieces are verified."""
        return self.verified == len(self.manifest.pieces)

    @property
    def levels(self) -> int:
        """Number of levels that are verified, with all that they need."""
        return max(0, self.verified - 2)

    def append(self, data: bytes | memoryview) -> None:
        """Add the next bytes. Raises WrongBytesError, after dropping the piece, and OSError where the disk is full."""
        left = memoryview(data)
        while left and not self.complete:
            part = left[: self._begins[self.verified + 1] - self.nbytes]
            self._write(part)
            self._take(part)
            left = left[len(part) :]

    def drop_piece(self) -> None:
        """Forget the bytes of the piece that is not whole yet."""
        self.nbytes, self._hash = self._begins[self.verified], hashlib.sha256()

    def read(self, begin: int, end: int) -> Iterator[bytes]:
        """Bytes `begin` to `end`, which must be verified."""
        while begin < end and (data := os.pread(self._fd, min(READ_NBYTES, end - begin), begin)):
            begin += len(data)
            yield data

    def flush(self) -> None:
        """Write all to the disk, and cut off what lies behind the last piece."""
        os.ftruncate(self._fd, self.nbytes)
        os.fsync(self._fd)

    def close(self) -> None:
        """Close the file; its bytes stay for the next start."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _write(self, data: memoryview) -> None:
        written = 0  # where it fails in the middle, the next try writes over it
        while written < len(data):
            written += os.pwrite(self._fd, data[written:], self.nbytes + written)

    def _take(self, data: bytes | memoryview) -> None:
        """Count bytes that are in the file, within one piece."""
        self._hash.update(data)
        self.nbytes += len(data)
        if self.nbytes == self._begins[self.verified + 1]:
            right = self._hash.hexdigest() == self.manifest.pieces[self.verified].sha256
            self._hash = hashlib.sha256()
            if not right:
                self.nbytes = self._begins[self.verified]
                raise WrongBytesError(
                    f"{_piece_name(self.verified)} came with other bytes than the manifest states; it is fetched again"
                )
            self.verified += 1

    def _scan(self) -> None:
        there = min(os.fstat(self._fd).st_size, self.manifest.nbytes)
        try:
            while self.nbytes < there:
                most = min(READ_NBYTES, there - self.nbytes, self._begins[self.verified + 1] - self.nbytes)
                data = os.pread(self._fd, most, self.nbytes)
                if not data:
                    break
                self._take(data)
        except WrongBytesError:
            pass
        os.ftruncate(self._fd, self.nbytes)


def _piece_name(index: int) -> str:
    return ("the header", "the graph")[index] if index < 2 else f"level {index - 2}"
