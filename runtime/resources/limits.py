"""LevelLimiter: the densest levels that may run, and that may stay in memory, by the sensors of the machine."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

from nested_sparse.errors import InputError
from nested_sparse.level import Level

from .monitor import ResourceSample

_MIB = 2**20
_MOST_PATIENCE = 32
"""Where the last rise did not last, the wait before the next one doubles, up to this multiple of the usual wait."""


@dataclass(frozen=True, slots=True)
class LimitConfig:
    """The readings from which on the highest level falls. None: that sensor is not used. Raises InputError.

    min_available_memory_bytes: bytes that must stay free for allocation, within machine and cgroup.
    memory_stall_percent: share of the time that some task of the machine waits for memory (PSI); off by default,
        because it may be a task of somebody else.
    max_temperature_celsius: above it the level falls by one every step_s; it rises temperature_hysteresis_celsius
    below. min_frequency_share: share of the highest frequency; below it the level falls by one every step_s; it rises
        at 1.1 times that share.
    min_battery_percent: charge below which, while discharging, battery_level is the highest level.
    rise_s: time that all readings must be good before the level rises by one.
    """

    min_available_memory_bytes: int | None = 64 * _MIB
    memory_stall_percent: float | None = None
    max_temperature_celsius: float | None = None
    temperature_hysteresis_celsius: float = 5.0
    min_frequency_share: float | None = None
    min_battery_percent: float | None = None
    battery_level: int = 0
    step_s: float = 5.0
    rise_s: float = 10.0

    def __post_init__(self) -> None:
        ranges = {
            "min_available_memory_bytes": (0, 2**60),
            "memory_stall_percent": (1, 100),
            "max_temperature_celsius": (0, 150),
            "temperature_hysteresis_celsius": (0, 50),
            "min_frequency_share": (0, 0.9),
            "min_battery_percent": (0, 100),
            "battery_level": (0, math.inf),
            "step_s": (0, 3600),
            "rise_s": (0, 3600),
        }
        for each in fields(self):
            value, (low, high) = getattr(self, each.name), ranges[each.name]
            if value is not None and not low <= value <= high:
                raise InputError(f"{each.name}: expected {low:g} to {high:g}, got {value}")


@dataclass(frozen=True, slots=True)
class LevelLimit:
    """The densest level that may run, the densest whose weights may stay in memory, and the reading behind them."""

    highest_level: int
    resident_level: int
    reason: str


class LevelLimiter:
    """Turns samples into a LevelLimit for a model of `levels`. Not thread-safe.

    A limit falls at once, or by one level at a time where the effect is gradual. It rises by one level at a time, when
    the reading has been clearly good for rise_s. Between the two thresholds, and without a reading, it stays, so that
    constant readings lead to one limit. A limit that falls soon after it rose waits twice as long before the next rise.
    """

    def __init__(self, levels: Sequence[Level], config: LimitConfig) -> None:
        self._nbytes = [level.nbytes for level in levels]
        self._config = config
        top = len(levels) - 1
        self._memory = _Cap(top, config.rise_s)
        self._stall = _Cap(top, config.rise_s, config.step_s)
        self._heat = _Cap(top, config.rise_s, config.step_s)
        self._frequency = _Cap(top, config.rise_s, config.step_s)
        self._battery = _Cap(top, config.rise_s)
        self._now_s = -math.inf

    def update(self, sample: ResourceSample, now_s: float) -> LevelLimit:
        """The limits after `sample`, taken at `now_s` in seconds. A time before the last one counts as the last one."""
        now_s = self._now_s = max(now_s, self._now_s)
        self._look_at_memory(sample, now_s)
        self._look_at_stall(sample, now_s)
        self._look_at_heat(sample, now_s)
        self._look_at_frequency(sample, now_s)
        self._look_at_battery(sample, now_s)
        caps = (self._memory, self._stall, self._heat, self._frequency, self._battery)
        binding = min(caps, key=lambda cap: (cap.level, -cap.changed_s))
        return LevelLimit(binding.level, min(self._memory.level, self._stall.level), binding.reason)

    def _look_at_memory(self, sample: ResourceSample, now_s: float) -> None:
        least, available = self._config.min_available_memory_bytes, sample.available_memory_bytes
        if least is None or available is None:
            return self._memory.hold()
        cap = self._memory
        reason = f"memory: {available / _MIB:.0f} MiB available, {least / _MIB:.0f} wanted"
        if available < least:
            fits = self._nbytes[cap.level] - (least - available)
            target = max((level for level in range(cap.level) if self._nbytes[level] <= fits), default=0)
            return cap.fall(target, reason, now_s)
        above = min(cap.level + 1, len(self._nbytes) - 1)
        spare = available - least - (self._nbytes[above] - self._nbytes[cap.level])
        cap.rise_if(spare >= least / 4, reason, now_s)

    def _look_at_stall(self, sample: ResourceSample, now_s: float) -> None:
        most, stall = self._config.memory_stall_percent, sample.memory_stall_percent
        if most is None or stall is None:
            return self._stall.hold()
        reason = f"memory: tasks wait for it {stall:.0f} % of the time, {most:.0f} allowed"
        self._stall.look(stall >= most, stall < most / 2, reason, now_s)

    def _look_at_heat(self, sample: ResourceSample, now_s: float) -> None:
        most, heat = self._config.max_temperature_celsius, sample.temperature_celsius
        if most is None or heat is None:
            return self._heat.hold()
        cool = heat <= most - self._config.temperature_hysteresis_celsius
        self._heat.look(heat > most, cool, f"temperature: {heat:.0f} °C, {most:.0f} allowed", now_s)

    def _look_at_frequency(self, sample: ResourceSample, now_s: float) -> None:
        least, now_mhz, most_mhz = self._config.min_frequency_share, sample.frequency_mhz, sample.max_frequency_mhz
        if least is None or now_mhz is None or not most_mhz:
            return self._frequency.hold()
        share = now_mhz / most_mhz
        reason = f"frequency: {now_mhz:.0f} of {most_mhz:.0f} MHz, {least * most_mhz:.0f} wanted"
        self._frequency.look(share < least, share >= 1.1 * least, reason, now_s)

    def _look_at_battery(self, sample: ResourceSample, now_s: float) -> None:
        least, charge, discharging = self._config.min_battery_percent, sample.battery_percent, sample.discharging
        if least is None or discharging is None or (discharging and charge is None):
            return self._battery.hold()
        percent = math.inf if charge is None else charge
        reason = f"battery: {percent:.0f} %, {'discharging' if discharging else 'on mains'}, {least:.0f} wanted"
        if discharging and percent < least:
            return self._battery.fall(self._config.battery_level, reason, now_s)
        self._battery.rise_if(not discharging or percent >= least + 2, reason, now_s)


class _Cap:
    """The highest level that one sensor allows."""

    def __init__(self, top: int, rise_s: float, step_s: float = 0.0) -> None:
        self.level = top
        self.reason = ""
        self.changed_s = -math.inf
        self._top = top
        self._rise_s = self._patience_s = rise_s
        self._step_s = step_s
        self._well_since_s: float | None = None
        self._rose_s = -math.inf

    def look(self, bad: bool, well: bool, reason: str, now_s: float) -> None:
        """Fall by one level where the reading is bad, once every step_s; rise where it was good for long enough."""
        if not bad:
            self.rise_if(well, reason, now_s)
        elif now_s - self.changed_s >= self._step_s or self.level == self._top:
            self.fall(max(self.level - 1, 0), reason, now_s)
        else:
            self.hold()

    def fall(self, level: int, reason: str, now_s: float) -> None:
        self._well_since_s = None
        if level < self.level:
            lasted = now_s - self._rose_s >= 2 * self._patience_s
            self._patience_s = self._rise_s if lasted else min(2 * self._patience_s, _MOST_PATIENCE * self._rise_s)
            self._change(level, reason, now_s)

    def rise_if(self, well: bool, reason: str, now_s: float) -> None:
        if not well or self.level == self._top:
            return self.hold()
        if self._well_since_s is None:
            self._well_since_s = now_s
        if now_s - self._well_since_s >= self._patience_s:
            self._change(self.level + 1, reason, now_s)
            self._rose_s = self._well_since_s = now_s

    def hold(self) -> None:
        self._well_since_s = None

    def _change(self, level: int, reason: str, now_s: float) -> None:
        self.level, self.reason, self.changed_s = level, reason, now_s
