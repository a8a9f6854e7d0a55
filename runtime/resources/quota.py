"""CpuQuota: the CPU quota of this process, the CPU time used, and how often the quota has stopped it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .probes import ROOT, quota_files, quotas, read_text

LOOK_S = 1.0
"""Longest time for which the files that state quotas are taken to be the same."""


@dataclass(frozen=True, slots=True)
class QuotaReading:
    """A quota as its cgroup states it.

    period_ms: the quota is given anew each such time. quota_ms: CPU time of each period. used_ms: CPU time that the
    group has used so far; where its files do not tell, that of this process alone. stops: number of periods so far in
    which the quota was used up before their end; None: not known.
    """

    period_ms: float
    quota_ms: float
    used_ms: float = 0.0
    stops: int | None = None


class CpuQuota:
    """Reads the tightest CPU quota of our cgroup and those above it. root: of the file system.

    The files are looked for again where this process has come into another cgroup, and every LOOK_S: the controller may
    be given to a cgroup later.
    """

    def __init__(self, root: Path = ROOT, clock: Callable[[], float] = time.monotonic) -> None:
        self._root = root
        self._clock = clock
        self._groups = root / "proc/self/cgroup"
        self._found_for, self._due_s = "", -math.inf
        self._files: list[Path] = []

    def __call__(self) -> QuotaReading | None:
        """The quota now; None where there is none, or where it cannot be read."""
        try:
            groups = read_text(self._groups)
            if groups != self._found_for or self._clock() >= self._due_s:
                self._files = quota_files(self._root)
                self._found_for, self._due_s = groups, self._clock() + LOOK_S
            cores, period_ms, folder = min(quotas(self._files))
        except (OSError, ValueError):  # absent or broken in any way; without a quota, min() fails
            return None
        stat = _stat(folder)
        return QuotaReading(period_ms, cores * period_ms, _used_ms(folder, stat), stat.get("nr_throttled"))


def _stat(folder: Path) -> dict[str, int]:
    """The counters of a group; those that cannot be read are left out."""
    counters: dict[str, int] = {}
    try:
        for line in read_text(folder / "cpu.stat").splitlines():
            name, _, count = line.partition(" ")
            if count.isdecimal():
                counters[name] = int(count)
    except OSError:
        pass
    return counters


def _used_ms(folder: Path, stat: dict[str, int]) -> float:
    if "usage_usec" in stat:  # version 2
        return stat["usage_usec"] / 1e3
    try:
        return int(read_text(folder / "cpuacct.usage")) / 1e6
    except (OSError, ValueError):  # version 1, its accounts kept elsewhere, for other groups
        return time.process_time() * 1e3
