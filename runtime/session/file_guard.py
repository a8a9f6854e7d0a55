"""FileGuard: protects an open checkpoint against writes into its file, or finds out that they happened."""

from __future__ import annotations

import logging
import threading
import weakref

from nested_sparse.errors import UnavailableError
from nested_sparse.forked import heed_forks
from nested_sparse.mapped_file import MappedFile

POLL_S = 0.25
"""Time between two polls. A writer waits up to this time, and for the copy. A poll is one system call."""
_LOGGER = logging.getLogger("nested_sparse.runtime")


class FileGuard:
    """A thread that polls a guarded MappedFile until close(), or until the file object is gone.

    unguarded: reason why the file's bytes may change; "" where they cannot.

    Raises CheckpointError if the file has been written to since it was opened.
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
        """As Inheritable. The thread exists in the parent only, and guards the parent's mapping."""
        self._closed = threading.Event()
        self.unguarded = "this process was forked from the one that guards it"

    def check(self) -> None:
        """Raises UnavailableError if the bytes are not those that were opened. Called before and after each run."""
        if not self.unguarded:
            return
        file = self._file()
        if file is not None and file.changed:
            raise UnavailableError(
                f"{file.path.name}: the file was written to in place while it was served, so its answers cannot be "
                "trusted; restart the server, and replace files by renaming"
            )

    def close(self) -> None:
        """Stop polling. Close the file afterwards: until then writers wait for its lease."""
        self._closed.set()

    def _watch(self) -> None:
        while not self._closed.wait(self._poll_s):
            file = self._file()
            if file is None or file.private or file.changed:
                return
            self._poll(file)
            del file  # else this thread would keep the file object alive while it sleeps

    def _poll(self, file: MappedFile) -> None:
        try:
            copied = file.poll()
        except (MemoryError, OSError) as error:  # the next poll tries again, as long as the writer waits
            if not self.unguarded:
                _LOGGER.error("%s: was opened for writing, and could not be copied first: %s", file.path, error)
            self.unguarded = str(error)
            return
        self.unguarded = ""
        if copied:
            _LOGGER.warning(
                "%s: was opened for writing; from now on its old content is served from a copy of %d bytes in memory, "
                "none of which is given back. Replace files by renaming, and restart to serve the new one",
                file.path,
                len(file.data),
            )
