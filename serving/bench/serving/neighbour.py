"""Neighbour: a process that shares one core with an inference, and becomes busy at a given moment."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from nested_sparse.errors import BenchError

_SOURCE = """
import sys, time
for line in sys.stdin:
    begin_s, end_s = map(float, line.split())
    time.sleep(max(0.0, begin_s - time.monotonic()))
    while time.monotonic() < end_s:
        pass
    print(flush=True)
"""


class Neighbour:
    """One process, pinned to `core`. It sleeps except in the planned times. It ends with its parent."""

    def __init__(self, core: int) -> None:
        command = [sys.executable, "-c", _SOURCE]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._orders, self._reports = self._process.stdin, self._process.stdout
        os.sched_setaffinity(self._process.pid, {core})
        self.plan(0.0, 0.0)
        self.wait()

    def __enter__(self) -> Neighbour:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def plan(self, begin_s: float, end_s: float) -> None:
        """Be busy between two moments of time.monotonic(). A wait() must follow each plan()."""
        self._orders.write(f"{begin_s!r} {end_s!r}\n")
        self._orders.flush()

    def wait(self) -> None:
        """Wait until the planned time is over. Raises BenchError where the process has ended."""
        if not self._reports.readline():
            raise BenchError("the busy neighbour ended before its time; run the measurement again")


@contextmanager
def pinned() -> Iterator[int]:
    """Within, this thread runs on the last of its cores only, whose number it gives. Raises BenchError."""
    if not hasattr(os, "sched_setaffinity"):
        raise BenchError("a core to share needs sched_setaffinity, which this system lacks; measure on Linux")
    before = os.sched_getaffinity(0)
    core = max(before)
    os.sched_setaffinity(0, {core})
    try:
        yield core
    finally:
        os.sched_setaffinity(0, before)
