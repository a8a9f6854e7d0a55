"""WholeFile: bytes that appear under their name all at once, or not at all."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def write_whole(path: Path, content: bytes) -> None:
    """Write `content` to `path`: a temporary file beside it, flushed to the disk, then renamed over what is there.

    A reader sees the old file or the new one, after a power cut too. Raises OSError, with the path, where it cannot be
    written (a full disk, a folder that may not be written); then the old file stays, and nothing else.
    """
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise OSError(error.errno, error.strerror or str(error), str(path)) from None
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
