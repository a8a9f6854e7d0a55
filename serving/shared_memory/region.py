"""Region: a part of a POSIX shared memory object, and Place, a part of a region that holds one tensor.

The object is read and written by the system's calls and never mapped. A client may shrink its object at any time: a
touch of a page that is gone would end the process, where a read is only short. And the values cannot change between
their check and the run. It costs one copy, 0.1 ms for 600 kB (Xeon), which the bytes of a message cost several times.
"""

from __future__ import annotations

import os
import stat
import weakref
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nested_sparse.errors import InputError, NotFoundError
from nested_sparse.excerpt import excerpt

FOLDER = Path("/dev/shm")
"""Where Linux shows POSIX shared memory; shm_open("/x") opens the file x in it."""
MAX_NAME_BYTES = 255
OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


class Region:
    """`nbytes` of a shared memory object, from `offset` on. It stays open until nothing refers to it any more.

    key: name of the object, as shm_open takes it. Only an object of the user that the server runs as is opened, read
    and written, and only while no other user may write to it.
    Raises NotFoundError where there is no such object, InputError where the object is not fit.
    """

    def __init__(self, name: str, key: str, offset: int, nbytes: int, folder: Path = FOLDER) -> None:
        self.name, self.key, self.offset, self.nbytes = name, key, offset, nbytes
        file_name = key.removeprefix("/")
        if file_name in ("", ".", "..") or "/" in file_name or "\0" in file_name:
            raise InputError(f"{self}: expected a key such as '/name', without another '/', got '{excerpt(key)}'")
        if nbytes < 1:
            raise InputError(f"{self}: expected a byte_size of 1 or more, got {nbytes}")
        if len(os.fsencode(file_name)) > MAX_NAME_BYTES:
            raise InputError(f"{self}: expected a key of at most {MAX_NAME_BYTES} bytes")
        try:
            flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
            self._fd = os.open(folder / file_name, flags)
        except FileNotFoundError:
            raise NotFoundError(f"{self}: there is no shared memory '{excerpt(key)}' here; create it first") from None
        except OSError as error:
            raise InputError(f"{self}: shared memory '{excerpt(key)}' cannot be opened: {error.strerror}") from None
        weakref.finalize(self, os.close, self._fd)
        self._check(0, nbytes)

    def __str__(self) -> str:
        return f"shared memory region '{excerpt(self.name)}'"

    def read(self, place: Place) -> NDArray[np.uint8]:
        """A copy of the bytes at `place`. Raises InputError where the object is not fit any more."""
        self._check(place.offset, place.nbytes)
        values = np.empty(place.nbytes, np.uint8)
        view, done = values.data, 0
        while done < place.nbytes:
            count = os.preadv(self._fd, [view[done:]], self.offset + place.offset + done)
            if count == 0:
                raise self._shrunk(place.offset, place.nbytes)
            done += count
        return values

    def write(self, place: Place, values: memoryview) -> None:
        """Put `values`, bytes that `place` has room for, at its begin. Raises InputError as read() does."""
        self._check(place.offset, len(values))  # a write behind the end would make the object larger
        done = 0
        while done < len(values):
            try:
                done += os.pwrite(self._fd, values[done:], self.offset + place.offset + done)
            except OSError as error:
                raise InputError(f"{self}: its object cannot be written: {error.strerror}") from None

    def _check(self, offset: int, nbytes: int) -> None:
        """Look at the object as it is now: its owner and mode may have changed, too."""
        status = os.fstat(self._fd)
        self._check_owner(status)
        if status.st_nlink == 0:  # perhaps there is another object under its key now, which the client writes to
            raise InputError(f"{self}: '{excerpt(self.key)}' was removed; create it again and register it again")
        if self.offset + offset + nbytes > status.st_size:
            raise self._shrunk(offset, nbytes)

    def _check_owner(self, status: os.stat_result) -> None:
        if not stat.S_ISREG(status.st_mode):
            raise InputError(f"{self}: '{excerpt(self.key)}' is no shared memory")
        if status.st_uid != os.geteuid():
            raise InputError(
                f"{self}: '{excerpt(self.key)}' belongs to user {status.st_uid}, the server runs as {os.geteuid()}; "
                "create it as the server's user"
            )
        if status.st_mode & OTHERS_WRITE:
            raise InputError(
                f"{self}: other users may write to '{excerpt(self.key)}' (mode {stat.S_IMODE(status.st_mode):o}); "
                "create it with mode 600"
            )

    def _shrunk(self, offset: int, nbytes: int) -> InputError:
        size = os.fstat(self._fd).st_size
        return InputError(
            f"{self}: bytes {self.offset + offset} to {self.offset + offset + nbytes} of '{excerpt(self.key)}' are "
            f"asked for, which has {size} bytes; create it large enough"
        )


@dataclass(frozen=True, slots=True)
class Place:
    """`nbytes` of a region, from `offset` of the region on."""

    region: Region
    offset: int
    nbytes: int
