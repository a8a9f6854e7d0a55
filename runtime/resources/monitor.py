"""ResourceMonitor: the readings of the machine's sensors."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields

from .probes import Probe, bounds, default_probes, is_plausible

_LOGGER = logging.getLogger("nested_sparse.runtime")
# name of a counter in microseconds, as the probes give it -> name of the field with its growth per wall time
_COUNTERS = {
    "cpu_stall_us": "cpu_stall_percent",
    "memory_stall_us": "memory_stall_percent",
    "io_stall_us": "io_stall_percent",
    "steal_us": "steal_percent",
    "throttled_us": "throttled_percent",
}


@dataclass(frozen=True, slots=True)
class ResourceSample:
    """The readings of all sensors at one moment. A field is None where the machine has no such sensor.

    time_s: reading of the monitor's clock.
    Percentages are shares of the wall time between the last two samples:
    cpu_stall_percent, memory_stall_percent, io_stall_percent: some task waited for that resource (PSI).
    steal_percent: the hypervisor ran another machine. throttled_percent: the CPU quota of our cgroup was used up.
    available_memory_bytes: bytes that can be allocated, within the machine and the cgroup.
    """

    time_s: float
    cpu_stall_percent: float | None = None
    memory_stall_percent: float | None = None
    io_stall_percent: float | None = None
    steal_percent: float | None = None
    throttled_percent: float | None = None
    usable_cores: int | None = None
    frequency_mhz: float | None = None
    max_frequency_mhz: float | None = None
    temperature_celsius: float | None = None
    battery_percent: float | None = None
    discharging: bool | None = None
    available_memory_bytes: int | None = None
    memory_limit_bytes: int | None = None


_TYPES: dict[str, Callable[[float], float]] = {
    "usable_cores": int,
    "discharging": bool,
    "available_memory_bytes": int,
    "memory_limit_bytes": int,
}
_GAUGES = {each.name for each in fields(ResourceSample)} - {"time_s"} - set(_COUNTERS.values())


class ResourceMonitor:
    """Gives the latest ResourceSample. It reads the sensors at most once every `min_interval_s`.

    sample() never raises. A probe that fails is left out, and so is a reading that no working sensor can give
    (probes.bounds). While one thread samples, other threads get the last sample. sample() waits for a probe that hangs;
    `latest` does not. Samples explain a slowdown and limit levels; policies go by the measured slowdown itself.
    """

    def __init__(
        self,
        probes: Iterable[Probe] | None = None,
        clock: Callable[[], float] = time.monotonic,
        min_interval_s: float = 0.25,
    ) -> None:
        self._probes = default_probes() if probes is None else tuple(probes)
        self._clock = clock
        self._min_interval_s = min_interval_s
        self._sampling = threading.Lock()
        self._counters: dict[str, float] = {}
        self._latest = ResourceSample(time_s=clock())
        self._due_s = -math.inf
        self._disbelieved: set[str] = set()

    @property
    def latest(self) -> ResourceSample:
        """The sample of the last call of sample(), from any thread; it reads no sensor."""
        return self._latest

    def sample(self) -> ResourceSample:
        """The sample of this moment. The first one has no percentages, which need two samples."""
        if not self._sampling.acquire(blocking=False):
            return self._latest
        try:
            now_s = self._clock()
            if now_s >= self._due_s:
                self._latest = self._read(now_s)
                self._due_s = now_s + self._min_interval_s
            return self._latest
        finally:
            self._sampling.release()

    def _read(self, now_s: float) -> ResourceSample:
        known: dict[str, float] = {}
        counters: dict[str, float] = {}
        for probe in self._probes:
            for name, value in _guarded(probe).items():
                if not is_plausible(name, value):
                    self._disbelieve(name, value, "{:g} to {:g}".format(*bounds(name)))
                elif name in _COUNTERS:
                    counters[name] = value
                elif name in _GAUGES:
                    known[name] = _TYPES.get(name, float)(value)
        elapsed_us = max((now_s - self._latest.time_s) * 1e6, 1.0)
        for name in counters.keys() & self._counters.keys():
            grown_us = counters[name] - self._counters[name]
            if grown_us < 0:
                self._disbelieve(name, counters[name], f"at least {self._counters[name]:g}, as before")
            else:
                known[_COUNTERS[name]] = min(100.0 * grown_us / elapsed_us, 100.0)
        self._counters = counters
        # mypy cannot see that the names are the fields'
        return ResourceSample(time_s=now_s, **known)  # type: ignore[arg-type]

    def _disbelieve(self, name: str, value: float, expected: str) -> None:
        if name not in self._disbelieved:
            self._disbelieved.add(name)
            _LOGGER.warning("sensor %s reads %g, expected %s: not used while it does", name, value, expected)


def _guarded(probe: Probe) -> dict[str, float]:
    try:
        return {name: float(value) for name, value in probe().items()}
    except Exception:  # a sensor may be absent, forbidden or broken in any way; the server must not care
        return {}
