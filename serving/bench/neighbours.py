"""Neighbours: the load that other processes put on the machine during a measurement."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import psutil

TOLERABLE_LOAD = 0.1
"""Cores that other processes may keep busy; above it, a report asks for another measurement."""


@dataclass(frozen=True, slots=True)
class CpuSeconds:
    """Readings that only grow. busy: seconds of all cores; own: of this process and of its children that have ended."""

    at: float
    busy: float
    own: float


def read_cpu_seconds() -> CpuSeconds:
    """The readings of now."""
    times = psutil.cpu_times()._asdict()
    counted = ("user", "nice", "system", "irq", "softirq", "steal")  # on Linux "user" has the guests' in it
    own = os.times()
    return CpuSeconds(
        time.monotonic(),
        sum(times.get(name, 0.0) for name in counted),
        own.user + own.system + own.children_user + own.children_system,
    )


def read_family_cpu_seconds() -> CpuSeconds:
    """The readings of now; `own` includes the children that still run, such as servers and co-runners."""
    now = read_cpu_seconds()
    living = 0.0
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            living += sum(child.cpu_times()[:2])
    return replace(now, own=now.own + living)


class Neighbours:
    """Counts from its creation on."""

    def __init__(self, read: Callable[[], CpuSeconds] = read_cpu_seconds) -> None:
        self._read = read
        self._begin = read()

    def cores(self) -> float:
        """Mean number of cores that other processes, and other guests of the hypervisor, kept busy since then."""
        now, begin = self._read(), self._begin
        elapsed_s = max(now.at - begin.at, 1e-9)
        return max(0.0, (now.busy - begin.busy - (now.own - begin.own)) / elapsed_s)


def disturbance(loads: Sequence[float | None]) -> str:
    """A line that asks for another measurement where one of the rows' loads was too large; else ""."""
    disturbed = [load for load in loads if load is not None and load > TOLERABLE_LOAD]
    if not disturbed:
        return ""
    return (
        f"Other processes kept up to {max(disturbed):.1f} cores busy during {len(disturbed)} of {len(loads)} rows "
        "(other_load in the JSON line): measure those again on an idle machine.\n"
    )
