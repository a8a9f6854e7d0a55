"""Co-runners: other load on the device, prepared before the measurement and switched on and off during it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from nested_sparse.errors import BenchError

from .quota import Quota

KINDS = ("none", "cpu", "memory", "quota")
LEAST_STREAM_BYTES = 32 << 20

WITH_PARENT = """
import ctypes, os, sys
parent = int(sys.argv[1])
try:  # a stopped process cannot see that its parent is gone: the kernel ends it (PR_SET_PDEATHSIG, SIGKILL)
    ctypes.CDLL(None).prctl(1, 9)
except (OSError, AttributeError):
    pass
"""
BURN = """
def work():
    for _ in range(10000):
        pass
"""
STREAM = """
import numpy as np
there = np.ones(int(sys.argv[2]) // 8)
back = np.zeros_like(there)
def work():
    np.copyto(back, there)
"""
UNTIL_ALONE = """
print("ready", flush=True)
while os.getppid() == parent:
    work()
"""


class CoRunner(Protocol):
    """A source of load: quiet before the first start() and after each stop(). It ends with its context."""

    def start(self) -> None:
        """Begin to load the device."""

    def stop(self) -> None:
        """Stop loading it."""


def co_runner(kind: str, server_pids: Sequence[int], threads: int = 1) -> AbstractContextManager[CoRunner]:
    """The co-runner called `kind`, one of KINDS.

    cpu: a busy loop per core. memory: a stream of copies over more than the last cache, per core. quota: the servers,
    which run `threads` threads, get half the CPU time they could use. Raises BenchError: no such kind, or not
    possible here.
    """
    cores = os.cpu_count() or 1
    if kind == "none":
        return BusyProcesses("", 0)
    if kind == "cpu":
        return BusyProcesses(BURN, cores)
    if kind == "memory":
        return BusyProcesses(STREAM, cores, [str(stream_bytes())])
    if kind == "quota":
        return Quota(server_pids, threads / 2)
    raise BenchError(f"no co-runner {kind!r}; there are {', '.join(KINDS)}")


class BusyProcesses:
    """`count` processes that call a script's work() for ever; they are stopped until start().

    They exist before the load begins, so that start() takes no time from it. Raises BenchError: one does not come up.
    """

    def __init__(self, script: str, count: int, arguments: Sequence[str] = ()) -> None:
        command = [sys.executable, "-c", WITH_PARENT + script + UNTIL_ALONE, str(os.getpid()), *arguments]
        self.processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(count)]
        for process in self.processes:
            assert process.stdout is not None
            if process.stdout.readline().strip() != "ready":
                self._end()
                raise BenchError(f"a co-runner process ended at once, with exit code {process.returncode}")
            process.send_signal(signal.SIGSTOP)

    def __enter__(self) -> BusyProcesses:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def start(self) -> None:
        """Let the processes work."""
        for process in self.processes:
            process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """Stop the processes."""
        for process in self.processes:
            process.send_signal(signal.SIGSTOP)

    def _end(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()


def stream_bytes(caches: Path = Path("/sys/devices/system/cpu/cpu0/cache")) -> int:
    """Bytes of one array that does not fit in the last-level cache; where that is unknown, LEAST_STREAM_BYTES."""
    sizes = [_bytes(path.read_text()) for path in caches.glob("index*/size")]
    return max(LEAST_STREAM_BYTES, 2 * max(sizes, default=0))


def _bytes(text: str) -> int:
    """Bytes of a size as the kernel writes it: "2048K"."""
    number, unit = text.strip()[:-1], text.strip()[-1:]
    return int(number) << {"K": 10, "M": 20, "G": 30}.get(unit, 0) if number.isdigit() else 0
