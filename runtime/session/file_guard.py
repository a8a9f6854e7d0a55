"""FileGuard: keeps what a checkpoint computes as it is while somebody writes into its file, or says that it is not."""

from __future__ import annotations

import logging
import threading
import weakref

from nested_sparse.errors import UnavailableError
from nested_sparse.forked import heed_forks
from nested_sparse.mapped_file import MappedFile

POLL_S = 0.25
"""A writer waits this much longer than the copy takes; a poll is one system call."""
_LOGGER = logging.getLogger("nested_sparse.runtime")


class FileGuard:
    """A thread that polls a guarded MappedFile until close(), or until nobody refers to the file any more.

    unguarded: why the file's bytes may change, "" where they cannot. Raises CheckpointError if the file has been
    written to since it was opened.
    """

    def __init__(self, file: MappedFile, poll_s: float = POLL_S) -> None:
        self.unguarded = file.guard()
        self._file = weakref.ref(file)
        self._poll_s = poll_s
        self._closed = threading.Event()
        if self.unguarded:
            _LOGGER.info(
                "%s: cannot be guarded against writes in place (%s); replace it only by renaming another file over it",
                file.path,
                self.unguarded,
            )
            return
        threading.Thread(target=self._watch, name=f"guard-{file.path.stem}", daemon=True).start()
        heed_forks(self)

    def forget(self) -> None:
        """As Inheritable: the thread is the parent's, which guards its own mapping."""
        self._closed = threading.Event()
        self.unguarded = "this process was forked from the one that guards it"

    def check(self) -> None:
        """Raises UnavailableError if the bytes are not those that were opened. Before and after each run."""
        if not self.unguarded:
            return
        file = self._file()
        if file is not None and file.changed:
            raise UnavailableError(
                f"{file.path.name}: the file was written to in place while it was served, and what it computes is not "
                "to be trusted; restart the server, and replace files by renaming"
            )

    def close(self) -> None:
        """Stop polling. The file has to be closed after it: until then writers wait for its lease."""
        self._closed.set()

    def _watch(self) -> None:
        while not self._closed.wait(self._poll_s):
            file = self._file()
            if file is None or file.private or file.changed:
                return
            self._poll(file)
            del file  # or the file would not end while this thread sleeps

    def _poll(self, file: MappedFile) -> None:
        try:
            copied = file.poll()
        except (MemoryError, OSError) as error:  # tried again, for as long as the writer waits
            if not self.unguarded:
                _LOGGER.error("%s: somebody opened it for writing, and it could not be copied: %s", file.path, error)
            self.unguarded = str(error)
            return
        self.unguarded = ""
        if copied:
            _LOGGER.warning(
                "%s: somebody opened it for writing; from now on it is served, as it was, from a copy of %d bytes in "
                "memory that stays there whole. Replace files by renaming, and restart to serve the new one",
                file.path,
                len(file.data),
            )
