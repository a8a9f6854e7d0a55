"""LevelLog: log lines that say when and why the level changed."""

from __future__ import annotations

import logging
import math
from dataclasses import fields

from ..resources import ResourceMonitor, ResourceSample

_SHARES = ("cpu_stall_percent", "memory_stall_percent", "io_stall_percent", "steal_percent", "throttled_percent")
_WORDS = {"usable_cores": "cores {}", "frequency_mhz": "{:.0f} MHz", "temperature_celsius": "{:.0f} °C"}
_LOGGER = logging.getLogger("nested_sparse.runtime")


EVERY_S, MOST_S = 5.0, 300.0
"""Least time between two lines, and the most that it grows to while lines say nothing new; in seconds."""


class LevelLog:
    """Logs changes of a model's level, with the readings of the machine's sensors that may explain them.

    There is at most one line per EVERY_S. A line is news if it names a level that no line named before. Each line that
    is no news doubles the time until the next one, up to MOST_S, and sums up the changes in between. After MOST_S
    without a change every level is news again.

    name: of the model. monitor: gives the readings; None: the lines name none.
    """

    def __init__(self, name: str, monitor: ResourceMonitor | None) -> None:
        self._name = name
        self._monitor = monitor
        self._level: int | None = None
        self._said: int | None = None  # the level that the last line named
        self._named: set[int] = set()
        self._logged_s = self._changed_s = -math.inf
        self._again_s = EVERY_S
        self._changes = 0
        self._requests: dict[int, int] = {}  # number of requests since the last line, by level

    def note(self, level: int, reason: str, slowdown: float, queue_length: int, now_s: float) -> None:
        """Take note that a request runs at `level`, which the server chose. Cheap while the level stays the same."""
        self._requests[level] = self._requests.get(level, 0) + 1
        if self._said is None:
            self._level = self._said = level
        if level != self._level:
            self._level = level
            self._changes += 1
            if now_s - self._changed_s >= MOST_S:
                self._named.clear()
            self._changed_s = now_s
        if level == self._said:
            return
        new = level not in self._named
        if now_s - self._logged_s < (EVERY_S if new else self._again_s):
            return
        _LOGGER.info(
            "%s: level %d -> %d: %s; slowdown %.2f, %d waiting%s%s",
            self._name,
            self._said,
            level,
            reason,
            slowdown,
            queue_length,
            self._sensors(),
            self._summary(now_s),
        )
        self._again_s = EVERY_S if new else min(2 * self._again_s, MOST_S)
        self._named |= {self._said, level}
        self._said = level
        self._logged_s = now_s
        self._changes = 0
        self._requests = {}

    def _summary(self, now_s: float) -> str:
        """The changes since the last line, where there was more than one."""
        if self._changes < 2:
            return ""
        count = sum(self._requests.values())
        shares = ", ".join(f"{level}: {100 * self._requests[level] / count:.0f} %" for level in sorted(self._requests))
        return f" ({self._changes} changes in {now_s - self._logged_s:.0f} s; levels {shares})"

    def _sensors(self) -> str:
        if self._monitor is None or not _LOGGER.isEnabledFor(logging.INFO):
            return ""
        text = describe(self._monitor.latest)
        return f"; {text}" if text else ""


def describe(sample: ResourceSample) -> str:
    """The readings that can explain a slow machine: shares of 1 % and more, cores, clock, charge and memory."""
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
