"""CpuQuota: the period of the CPU quota of this process, and how often the quota has stopped it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .probes import ROOT, quota_folders


@dataclass(frozen=True, slots=True)
class QuotaReading:
    """A quota as its cgroup states it.

    period_ms: the quota is given anew each such time. stops: number of periods so far in which it was used up before
    their end; None: not known.
    """

    period_ms: float
    stops: int | None = None


class CpuQuota:
    """Reads the tightest CPU quota of our cgroup and those above it. root: of the file system."""

    def __init__(self, root: Path = ROOT) -> None:
        self._root = root

    def __call__(self) -> QuotaReading | None:
        """The quota now; None where there is none, or where it cannot be read."""
        try:
            _, period_ms, folder = min(quota_folders(self._root))
        except (OSError, ValueError):  # absent or broken in any way; without a quota, min() fails
            return None
        return QuotaReading(period_ms, _stops(folder))


def _stops(folder: Path) -> int | None:
    try:
        stat = dict(line.split() for line in (folder / "cpu.stat").read_text(encoding="ascii").splitlines())
        return int(stat["nr_throttled"])
    except (OSError, ValueError, KeyError):
        return None
