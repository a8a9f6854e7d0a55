"""DeviceState: the readings of the device's sensors, and the limits that follow for each model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from nested_sparse.runtime.resources import Governor, LevelLimit, ResourceSample

GAUGES = {
    "usable_cores": ("nested_sparse_usable_cores", "Cores that the process may use", 1.0),
    "available_memory_bytes": ("nested_sparse_available_memory_bytes", "Bytes that can be allocated", 1.0),
    "temperature_celsius": ("nested_sparse_temperature_celsius", "The hottest thermal zone", 1.0),
    "frequency_mhz": ("nested_sparse_frequency_hertz", "Frequency of the cores", 1e6),
    "battery_percent": ("nested_sparse_battery_ratio", "Charge of the battery", 0.01),
    "throttled_percent": (
        "nested_sparse_throttled_ratio",
        "Share of the time for which the CPU quota was used up",
        0.01,
    ),
    "steal_percent": ("nested_sparse_steal_ratio", "Share of the time that the hypervisor gave to others", 0.01),
}
"""Metric of each reading: its name, its meaning, and the factor to its unit."""
STALLS = {"cpu": "cpu_stall_percent", "memory": "memory_stall_percent", "io": "io_stall_percent"}


@dataclass(frozen=True, slots=True)
class DeviceState:
    """One moment of the device. limits: of each model, by its name."""

    sample: ResourceSample
    limits: dict[str, LevelLimit]

    @classmethod
    def of(cls, governor: Governor) -> DeviceState:
        """The state at the governor's last look; it reads no sensor."""
        return cls(governor.monitor.latest, dict(governor.limits()))

    def as_dict(self) -> dict[str, Any]:
        """The readings that the machine has, by the names of ResourceSample."""
        return {name: value for name, value in asdict(self.sample).items() if value is not None and name != "time_s"}


class DeviceMetrics:
    """Exports the state that `now` gives. A reading that the machine does not have is left out."""

    def __init__(self, now: Callable[[], DeviceState]) -> None:
        self._now = now

    def describe(self) -> Iterator[Metric]:
        """As prometheus_client's collectors: no metric is named twice in this registry."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """As prometheus_client's collectors, from any thread."""
        state = self._now()
        for field, (name, text, factor) in GAUGES.items():
            reading = getattr(state.sample, field)
            if reading is not None:
                yield GaugeMetricFamily(name, text, value=reading * factor)
        stalls = GaugeMetricFamily(
            "nested_sparse_stall_ratio",
            "Share of the time for which a task waited for a resource",
            labels=("resource",),
        )
        for resource, field in STALLS.items():
            reading = getattr(state.sample, field)
            if reading is not None:
                stalls.add_metric((resource,), reading / 100)
        highest = GaugeMetricFamily(
            "nested_sparse_highest_level", "The densest level that the device's state allows", labels=("model",)
        )
        for model, limit in state.limits.items():
            highest.add_metric((model,), limit.highest_level)
        yield from (stalls, highest)
