"""Probes: each reads one sensor of the machine. Every sensor may be absent.

A probe is called without arguments and returns named readings: gauges by the name of their ResourceSample field, and
counters in microseconds, "..._us", which the monitor turns into shares of time. It may raise an error, or return no
reading. Each takes the root of the file system, so that tests can give it a tree of their own.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

Probe = Callable[[], Mapping[str, float]]
ROOT = Path("/")
_BOUNDS: dict[str, tuple[float, float]] = {
    "usable_cores": (1, 2**16),
    "frequency_mhz": (1, 20_000),
    "max_frequency_mhz": (1, 20_000),
    "temperature_celsius": (-60, 150),
    "battery_percent": (0, 100),
    "discharging": (0, 1),
    "available_memory_bytes": (0, 2**60),
    "memory_limit_bytes": (1, 2**60),
}
_COUNTER_BOUNDS = (0.0, 2.0**63)
"""Readings that a working sensor can give; counters are microseconds since some beginning."""


def bounds(name: str) -> tuple[float, float]:
    """Least and greatest plausible value of the reading `name`; a sensor with other values is broken."""
    return _BOUNDS.get(name, _COUNTER_BOUNDS)


def is_plausible(name: str, value: float) -> bool:
    """Whether a working sensor can give that reading."""
    low, high = bounds(name)
    return low <= value <= high


def default_probes(root: Path = ROOT) -> tuple[Probe, ...]:
    """Every probe, for the machine at `root`."""
    every = (pressure, steal, throttling, cores, frequency, temperature, battery, memory)
    return tuple(functools.partial(probe, root) for probe in every)


def usable_cores(root: Path = ROOT) -> int:
    """CPU cores this process can keep busy: its affinity, within the CPU quota of its cgroup; at least 1.

    A quota of 1.5 cores counts as 1: a second thread would be throttled for half of every period.
    """
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    try:
        quota = cpu_quota(root)
    except (OSError, ValueError):
        quota = math.inf
    return max(1, int(min(affinity, quota)))


def pressure(root: Path = ROOT) -> dict[str, float]:
    """Pressure stall totals: time in which some task waited for CPU, memory or IO."""
    readings = {}
    for resource in ("cpu", "memory", "io"):
        for line in _lines(root / "proc/pressure" / resource):
            if line.startswith("some "):
                readings[f"{resource}_stall_us"] = float(line.rpartition("total=")[2])
    return readings


def steal(root: Path = ROOT) -> dict[str, float]:
    """Time the hypervisor took, averaged over the CPUs."""
    lines = _lines(root / "proc/stat")
    cpus = sum(line.startswith("cpu") and line[3:4].isdigit() for line in lines)
    ticks = float(lines[0].split()[8])
    return {"steal_us": ticks * 1e6 / os.sysconf("SC_CLK_TCK") / max(cpus, 1)}


def throttling(root: Path = ROOT) -> dict[str, float]:
    """Time that our cgroup had no CPU because its quota was used up (v2 counts microseconds, v1 nanoseconds)."""
    for folder in cgroup_folders("cpu", root):
        stat = dict(line.split() for line in _lines(folder / "cpu.stat"))
        if "throttled_usec" in stat:
            return {"throttled_us": float(stat["throttled_usec"])}
        if "throttled_time" in stat:
            return {"throttled_us": float(stat["throttled_time"]) / 1e3}
    return {}


def cores(root: Path = ROOT) -> dict[str, float]:
    """usable_cores(), as a probe: the quota may be changed while we run."""
    return {"usable_cores": usable_cores(root)}


def frequency(root: Path = ROOT) -> dict[str, float]:
    """Mean frequency of the CPUs now, and the highest any can have."""
    folders = list((root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq"))
    now = [float(read_text(folder / "scaling_cur_freq")) for folder in folders]
    highest = [float(read_text(folder / "cpuinfo_max_freq")) for folder in folders]
    return {"frequency_mhz": sum(now) / len(now) / 1e3, "max_frequency_mhz": max(highest) / 1e3} if now else {}


def temperature(root: Path = ROOT) -> dict[str, float]:
    """Temperature of the hottest thermal zone. A zone with an implausible reading does not hide the others."""
    zones = []
    for path in (root / "sys/class/thermal").glob("thermal_zone*/temp"):
        value = _optional_number(path)
        if value is not None:
            zones.append(value / 1e3)
    believed = [zone for zone in zones if is_plausible("temperature_celsius", zone)]
    return {"temperature_celsius": max(believed or zones)} if zones else {}


def battery(root: Path = ROOT) -> dict[str, float]:
    """Charge of the first battery, and whether it is discharging."""
    for folder in sorted((root / "sys/class/power_supply").glob("*")):
        if _optional_text(folder / "type") == "Battery":
            readings = {"discharging": float(_optional_text(folder / "status") == "Discharging")}
            charge = _optional_number(folder / "capacity")
            return readings if charge is None else {**readings, "battery_percent": charge}
    return {}


def memory(root: Path = ROOT) -> dict[str, float]:
    """Bytes that can be allocated: the machine's MemAvailable, within every memory limit of our cgroups."""
    readings: dict[str, float] = {}
    available = math.inf
    for line in _lines(root / "proc/meminfo"):
        if line.startswith("MemAvailable:"):
            available = float(line.split()[1]) * 1024
    for limit, free in filter(None, map(_memory_limit, cgroup_folders("memory", root))):
        available = min(available, free)
        readings["memory_limit_bytes"] = min(limit, readings.get("memory_limit_bytes", math.inf))
    if math.isfinite(available):
        readings["available_memory_bytes"] = available
    return readings


def cpu_quota(root: Path = ROOT) -> float:
    """CPU quota in cores, the tightest of our cgroup and those above; infinite without. Raises OSError, ValueError."""
    return min([cores for cores, _, _ in quotas(quota_files(root))], default=math.inf)


def quota_files(root: Path = ROOT) -> list[Path]:
    """Files of our cgroup and those above it that can state a CPU quota. Raises OSError."""
    every = [folder / name for folder in cgroup_folders("cpu", root) for name in ("cpu.max", "cpu.cfs_quota_us")]
    return [path for path in dict.fromkeys(every) if path.exists()]


def quotas(files: Iterable[Path]) -> Iterator[tuple[float, float, Path]]:
    """Cores, period in milliseconds, and folder of each CPU quota that `files` state. Raises OSError, ValueError."""
    for path in files:
        if path.name == "cpu.max":
            share, period = read_text(path).split()
        else:
            share = read_text(path) or "-1"
            period = "" if share == "-1" else _optional_text(path.with_name("cpu.cfs_period_us")) or "100000"
        if share not in ("max", "-1"):
            share_us, period_us = float(share), float(period)
            if not (0 < share_us < math.inf and 0 < period_us < math.inf):
                raise ValueError(f"a CPU quota of {share} in {period} us")
            yield share_us / period_us, period_us / 1e3, path.parent


def cgroup_folders(controller: str, root: Path = ROOT) -> Iterator[Path]:
    """Folders of our cgroup for `controller` and of those above it, innermost first: version 2, then version 1.

    Inside a container the path that /proc names may lie outside of the mount. Then there is only the mount's own
    folder.
    """
    mounts = root / "sys/fs/cgroup"
    for line in _lines(root / "proc/self/cgroup"):
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if not controllers:
            bases = [mounts, mounts / "unified"]
        elif controller in controllers.split(","):
            bases = [mounts / controller, mounts / controllers]
        else:
            continue
        for base in bases:
            yield from _upwards(base, path)


def _upwards(base: Path, path: str) -> Iterator[Path]:
    parts = [part for part in path.split("/") if part and part != ".."]
    for depth in range(len(parts), -1, -1):
        folder = base.joinpath(*parts[:depth])
        if folder.is_dir():
            yield folder


def _memory_limit(folder: Path) -> tuple[float, float] | None:
    """Limit of this cgroup and its free part, in bytes; None without a limit."""
    for limit_name, usage_name, cache_name in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        text = _optional_text(folder / limit_name)
        # version 1 writes "no limit" as the largest page-aligned int64
        if text is None or text == "max" or float(text) > 2**60:
            continue
        used = float(read_text(folder / usage_name))
        stat = dict(line.split() for line in _optional_lines(folder / "memory.stat"))
        reclaimable = float(stat.get(cache_name, 0))
        return float(text), max(0.0, float(text) - max(used - reclaimable, 0.0))
    return None


def read_text(path: Path) -> str:
    """The whole text of a file of the kernel, without its last line's end. Raises OSError.

    It takes less than half of the time of Path.read_text(). Beside a CPU quota, files are read many times a second.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        pieces = []
        while piece := os.read(descriptor, 1 << 16):
            pieces.append(piece)
    finally:
        os.close(descriptor)
    return b"".join(pieces).decode("ascii", errors="replace").strip()


def _lines(path: Path) -> list[str]:
    return read_text(path).splitlines()


def _optional_text(path: Path) -> str | None:
    try:
        return read_text(path)
    except OSError:
        return None


def _optional_lines(path: Path) -> list[str]:
    return (_optional_text(path) or "").splitlines()


def _optional_number(path: Path) -> float | None:
    try:
        return float(read_text(path))
    except (OSError, ValueError):
        return None
