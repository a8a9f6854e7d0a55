"""WholeFile: a file that other processes see complete, or not at all."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO


def write_whole(path: Path, content: bytes) -> None:
    """Write `content` to `path`: into a temporary file beside it, flushed to the disk and then renamed to `path`.

    A reader sees the old file or the new one, after a power cut too. Raises OSError, with the path, where the file
    cannot be written (a full disk, a folder without the right to write); then the old file stays, and no other remains.
    """
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        with _alone(temporary) as file:
            try:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
                temporary.replace(path)
            except OSError:
                with suppress(OSError):
                    temporary.unlink()
                raise
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from None
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


@contextmanager
def _alone(path: Path) -> Iterator[BinaryIO]:
    """The file at `path`, empty and open for writing; another process that writes there, too, is waited for.

    A name for each process would need no lock, but processes that are killed would leave one file each.
    """
    while True:
        with path.open("ab") as file:
            with suppress(OSError):  # a file system without locks
                fcntl.flock(file, fcntl.LOCK_EX)
            if _is_at(file, path):  # else the other one has renamed it meanwhile
                file.truncate(0)
                yield file
                return


def _is_at(file: BinaryIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
