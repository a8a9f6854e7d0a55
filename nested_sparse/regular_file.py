"""RegularFile: a file that can be opened without waiting and read to its end."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """Open `path` for reading. Raises OSError, also where it is not a regular file or cannot be the name of one.

    Opening a named pipe would wait until another process writes into it, and a device may have no end.
    """
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, "it is not a regular file, but a folder", str(path))
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "it is not a regular file, but a pipe, a socket or a device", str(path))
        return Path(path).open("rb")
    except ValueError as error:  # a null character, or one that has no bytes in the file system's encoding
        raise OSError(errno.EINVAL, f"no file can have this name: {error}", str(path)) from None


def read_regular(path: str | os.PathLike[str], most_nbytes: int) -> bytes:
    """All of the file at `path`. Raises OSError as `open_regular` does, and where it has more than `most_nbytes`."""
    with open_regular(path) as file:
        content = file.read(most_nbytes + 1)
    if len(content) > most_nbytes:
        raise OSError(errno.EFBIG, f"expected at most {most_nbytes} bytes", str(path))
    return content
