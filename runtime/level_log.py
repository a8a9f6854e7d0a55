"""LevelLog: says when and why the level changed."""

from __future__ import annotations

import logging
from dataclasses import fields

from nested_sparse.runtime.monitor import ResourceMonitor, ResourceSample

_SHARES = ("cpu_stall_percent", "memory_stall_percent", "io_stall_percent", "steal_percent", "throttled_percent")
_WORDS = {"usable_cores": "cores {}", "frequency_mhz": "{:.0f} MHz", "temperature_celsius": "{:.0f} °C"}
_LOGGER = logging.getLogger("nested_sparse.runtime")


class LevelLog:
    """Logs changes of level, at most one line per `every_s`, with what the machine's sensors say about the cause."""

    def __init__(self, name: str, monitor: ResourceMonitor | None, every_s: float = 1.0) -> None:
        self._name = name
        self._monitor = monitor
        self._every_s = every_s
        self._level: int | None = None
        self._logged_s: float | None = None
        self._unlogged = 0

    def note(self, level: int, reason: str, slowdown: float, queue_length: int, now_s: float) -> None:
        """A request runs at `level`. Cheap when nothing changed."""
        if level == self._level:
            return
        previous, self._level = self._level, level
        if previous is None:
            return
        if self._logged_s is not None and now_s - self._logged_s < self._every_s:
            self._unlogged += 1
            return
        _LOGGER.info(
            "%s: level %d -> %d: %s; slowdown %.2f, %d waiting%s%s",
            self._name,
            previous,
            level,
            reason,
            slowdown,
            queue_length,
            self._sensors(),
            f" ({self._unlogged} changes not logged)" if self._unlogged else "",
        )
        self._logged_s = now_s
        self._unlogged = 0

    def _sensors(self) -> str:
        if self._monitor is None or not _LOGGER.isEnabledFor(logging.INFO):
            return ""
        text = describe(self._monitor.latest)
        return f"; {text}" if text else ""


def describe(sample: ResourceSample) -> str:
    """What explains a slow machine: every known percentage above 1, what is left of cores, clock, charge and memory."""
    words = []
    for each in fields(sample):
        value = getattr(sample, each.name)
        if value is not None and each.name in _WORDS:
            words.append(_WORDS[each.name].format(value))
        elif value is not None and each.name in _SHARES and value >= 1:
            words.append(f"{each.name.removesuffix('_percent').replace('_', ' ')} {value:.0f} %")
    if sample.discharging:
        charge = "" if sample.battery_percent is None else f" at {sample.battery_percent:.0f} %"
        words.append(f"on battery{charge}")
    if sample.available_memory_bytes is not None:
        words.append(f"{sample.available_memory_bytes / 2**20:.0f} MiB available")
    return ", ".join(words)
