"""FileGuard: keeps what a checkpoint computes as it is while somebody writes into its file."""

from __future__ import annotations

import logging
import threading
import weakref

from nested_sparse.mapped_file import MappedFile

POLL_S = 0.25
"""A writer waits this much longer than the copy takes; a poll is one system call."""
_LOGGER = logging.getLogger("nested_sparse.runtime")


class FileGuard:
    """A thread that polls a guarded MappedFile until close(), or until nobody refers to the file any more.

    refused: why the file could not be guarded, "" where it is. Raises CheckpointError if the file has been written to
    since it was opened.
    """

    def __init__(self, file: MappedFile, poll_s: float = POLL_S) -> None:
        self.refused = file.guard()
        self._closed = threading.Event()
        if self.refused:
            _LOGGER.info(
                "%s: cannot be guarded against writes in place (%s); replace it only by renaming another file over it",
                file.path,
                self.refused,
            )
            return
        arguments = (weakref.ref(file), self._closed, poll_s)
        threading.Thread(target=_watch, args=arguments, name=f"guard-{file.path.stem}", daemon=True).start()

    def close(self) -> None:
        """Stop polling. The file has to be closed after it: until then writers wait for its lease."""
        self._closed.set()


def _watch(reference: weakref.ref[MappedFile], closed: threading.Event, poll_s: float) -> None:
    while not closed.wait(poll_s):
        file = reference()
        if file is None or file.private:
            return
        try:
            _poll(file)
        except (MemoryError, OSError) as error:
            _LOGGER.error("%s: is being written to and could not be copied first: %s", file.path, error)
        del file  # or the file would not end while this thread sleeps


def _poll(file: MappedFile) -> None:
    if file.poll():
        _LOGGER.warning(
            "%s: somebody opened it for writing; from now on it is served, as it was, from a copy of %d bytes in "
            "memory that stays there whole. Replace files by renaming, and restart to serve the new one",
            file.path,
            len(file.data),
        )
