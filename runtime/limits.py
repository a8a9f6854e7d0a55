"""Limits: what the machine's memory, heat and battery allow, level by level."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from nested_sparse.errors import InputError
from nested_sparse.level import Level
from nested_sparse.runtime.monitor import ResourceSample

LEAST_MEMORY_BYTES = 64 << 20
MEMORY_STALL_PERCENT = 20.0
RETURN_AFTER_S = 10.0
"""For how long a cause must have been over before one level is given back."""
FALL_EVERY_S = 5.0
"""Between two steps down for heat: what a sparser level does shows in the temperature seconds later."""
MARGIN_CELSIUS = 5.0
MARGIN_PERCENT = 5.0
MEMORY_FACTOR = 1.5
"""A cause is over when the reading is this much better than where it began."""


@dataclass(frozen=True, slots=True)
class LimitConfig:
    """Where a level is given up; None: never for this cause.

    least_memory_bytes: available memory below which levels are given back to the system, all but the lowest at once.
    memory_stall_percent: share of the time in which tasks wait for memory (PSI) from which on the same happens.
    most_celsius: temperature from which on the level falls by one at a time.
    least_battery_percent: charge below which, while it is being used up, only the lowest level runs.

    Raises InputError.
    """

    least_memory_bytes: int | None = LEAST_MEMORY_BYTES
    memory_stall_percent: float | None = MEMORY_STALL_PERCENT
    most_celsius: float | None = None
    least_battery_percent: float | None = None

    def __post_init__(self) -> None:
        """Check."""
        for name, least, most in (
            ("least_memory_bytes", 0, math.inf),
            ("memory_stall_percent", 0, 100),
            ("most_celsius", 0, 150),
            ("least_battery_percent", 0, 100),
        ):
            value = getattr(self, name)
            if value is not None and not least < value <= most:
                raise InputError(f"{name}: expected a number above {least}, at most {most}, got {value}")


@dataclass(frozen=True, slots=True)
class LevelLimit:
    """highest_level: none denser may be chosen. resident_level: none denser may stay in memory.

    reason: the cause and its reading, "" where nothing limits.
    """

    highest_level: int
    resident_level: int
    reason: str = ""


class Limits:
    """Turns samples into limits: down at once for memory and battery, step by step for heat; up slowly, all of them.

    A reading that is missing changes nothing: what it caused ends as if it were over. Not thread-safe.
    """

    def __init__(self, levels: Sequence[Level], config: LimitConfig | None = None) -> None:
        self._config = LimitConfig() if config is None else config
        self._top = len(levels) - 1
        self._memory = _Cap(self._top, RETURN_AFTER_S)
        self._heat = _Cap(self._top, RETURN_AFTER_S)
        self._battery = _Cap(self._top, RETURN_AFTER_S)

    def update(self, sample: ResourceSample, now_s: float) -> LevelLimit:
        """The limit now. `now_s` rises from call to call."""
        self._memory.step(*self._short_of_memory(sample), now_s, falls_to=0)
        hot = self._too_hot(sample)
        self._heat.step(*hot, now_s, falls_to=max(self._heat.level - 1, 0), every_s=FALL_EVERY_S)
        self._battery.step(*self._low_battery(sample), now_s, falls_to=0)
        caps = (self._memory, self._heat, self._battery)
        lowest = min(caps, key=lambda cap: cap.level)
        reason = lowest.reason if lowest.level < self._top else ""
        return LevelLimit(lowest.level, self._memory.level, reason)

    def _short_of_memory(self, sample: ResourceSample) -> tuple[str, bool]:
        """Why memory is short, and whether it certainly is not."""
        config, free = self._config, sample.available_memory_bytes
        least = config.least_memory_bytes
        if least is not None and free is not None and free < least:
            return f"memory: {free >> 20} MiB available, {least >> 20} MiB wanted", False
        stall, most = sample.memory_stall_percent, config.memory_stall_percent
        if most is not None and stall is not None and stall >= most:
            return f"memory: tasks waited for it {stall:.0f} % of the time", False
        enough = least is None or free is None or free >= MEMORY_FACTOR * least
        calm = most is None or stall is None or stall < most / 2
        return "", enough and calm

    def _too_hot(self, sample: ResourceSample) -> tuple[str, bool]:
        most, now = self._config.most_celsius, sample.temperature_celsius
        if most is None or now is None:
            return "", True
        return f"heat: {now:.0f} °C, at most {most:.0f} °C" if now >= most else "", now < most - MARGIN_CELSIUS

    def _low_battery(self, sample: ResourceSample) -> tuple[str, bool]:
        least, now = self._config.least_battery_percent, sample.battery_percent
        if least is None or now is None or not sample.discharging:
            return "", True
        low = f"battery: {now:.0f} %, at least {least:.0f} %" if now < least else ""
        return low, now >= least + MARGIN_PERCENT


class _Cap:
    """The highest level that one cause allows."""

    def __init__(self, top: int, return_after_s: float) -> None:
        self.level = top
        self.reason = ""
        self._top = top
        self._return_after_s = return_after_s
        self._changed_s = -math.inf
        self._bad_s = -math.inf

    def step(self, cause: str, over: bool, now_s: float, *, falls_to: int, every_s: float = 0.0) -> None:
        """cause: why it holds now, "" if it does not; over: whether it is so with a margin."""
        if cause:
            self._bad_s = now_s
            if falls_to < self.level and now_s - self._changed_s >= every_s:
                self.level, self._changed_s = falls_to, now_s
            self.reason = cause
        elif not over:
            self._bad_s = now_s
        elif self.level < self._top and now_s - max(self._bad_s, self._changed_s) >= self._return_after_s:
            self.level, self._changed_s = self.level + 1, now_s
