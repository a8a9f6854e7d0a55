"""Rotation: a value that is read from files, and read again when they change."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from nested_sparse.errors import ServingError

PERIOD_S = 0.5
T = TypeVar("T")
State = tuple[tuple[int, ...], ...]
log = logging.getLogger(__name__)


class Rotation(Generic[T]):
    """The value that `read` makes of the files at `paths`: at first at once, which raises what `read` raises.

    Later, look() reads again when the files have changed and then have stayed the same until the next look, so that
    a file that is still being written is not read. Files that `read` refuses, with ServingError, leave the old value
    in force; the log has the reason once. what: the files, in words, for the log.
    """

    def __init__(self, what: str, paths: Sequence[Path], read: Callable[[], T]) -> None:
        self._what = what
        self._paths = tuple(paths)
        self._read = read
        self._seen = self._used = self._state()
        self.value = read()

    def look(self) -> bool:
        """Whether there is a new value. It reads files: call it from a thread that may wait."""
        seen, self._seen = self._seen, self._state()
        if self._seen != seen or seen == self._used:
            return False
        self._used = seen
        try:
            self.value = self._read()
        except ServingError as error:
            log.error("%s changed and cannot be used; the old one stays in force: %s", self._what, error)
            return False
        log.info("%s changed; the new one is in force", self._what)
        return True

    async def watch(self, period_s: float = PERIOD_S) -> None:
        """Look every `period_s` until cancelled."""
        while True:
            await asyncio.sleep(period_s)
            await asyncio.to_thread(self.look)

    def _state(self) -> State:
        return tuple(_identity(path) for path in self._paths)


def _identity(path: Path) -> tuple[int, ...]:
    try:
        status = path.stat()
    except OSError as error:
        return (-1, error.errno or 0)
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
