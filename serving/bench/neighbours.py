"""Neighbours: how busy other processes kept the machine while something was measured."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import psutil

TOLERABLE_LOAD = 0.1
"""Cores that other processes may keep busy; above it, a report asks for another measurement."""


@dataclass(frozen=True, slots=True)
class CpuSeconds:
    """Readings that only grow. busy: of all cores; own: of this process and of its children that have ended."""

    at: float
    busy: float
    own: float


def read_cpu_seconds() -> CpuSeconds:
    """Now."""
    times = psutil.cpu_times()._asdict()
    counted = ("user", "nice", "system", "irq", "softirq", "steal")  # on Linux "user" has the guests' in it
    own = os.times()
    return CpuSeconds(
        time.monotonic(),
        sum(times.get(name, 0.0) for name in counted),
        own.user + own.system + own.children_user + own.children_system,
    )


def read_family_cpu_seconds() -> CpuSeconds:
    """Now; `own` is also of the children that still run, as servers and co-runners do."""
    now = read_cpu_seconds()
    living = 0.0
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            living += sum(child.cpu_times()[:2])
    return replace(now, own=now.own + living)


class Neighbours:
    """Counts from when it is made."""

    def __init__(self, read: Callable[[], CpuSeconds] = read_cpu_seconds) -> None:
        self._read = read
        self._begin = read()

    def cores(self) -> float:
        """Cores that others, the hypervisor's other guests included, kept busy since then, on average."""
        now, begin = self._read(), self._begin
        elapsed_s = max(now.at - begin.at, 1e-9)
        return max(0.0, (now.busy - begin.busy - (now.own - begin.own)) / elapsed_s)
