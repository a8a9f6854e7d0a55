"""Governor: the levels and threads of several models by the samples of the device."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from types import SimpleNamespace

import pytest

from nested_sparse.level import Level
from nested_sparse.runtime.resources.governor import Governor
from nested_sparse.runtime.resources.limits import LimitConfig
from nested_sparse.runtime.resources.monitor import ResourceMonitor

MIB = 2**20


class Rig:
    """A governor on a clock and readings of ours, watching one model that records what it is told."""

    def __init__(self, *, follows_cores: bool = True) -> None:
        self.now_s = 0.0
        self.readings: dict[str, float] = {"available_memory_bytes": 1000 * MIB, "usable_cores": 4}
        self.told: list[tuple[int, str]] = []
        levels = [Level(i, 0.2 * (i + 1), 1, 10 * MIB << i, {}) for i in range(4)]
        self.model = SimpleNamespace(name="m", levels=levels, resident_level=3, threads=4)
        self.scheduler = SimpleNamespace(limit=lambda level, reason: self.told.append((level, reason)))
        monitor = ResourceMonitor([lambda: self.readings], lambda: self.now_s)
        self.governor = Governor(monitor, LimitConfig(), clock=lambda: self.now_s)
        self.governor.watch(self.model, self.scheduler, follows_cores=follows_cores)

    def look(self, seconds: float = 0.5, **readings: float) -> None:
        self.readings.update(readings)
        for _ in range(int(seconds * 2)):
            self.now_s += 0.5
            self.governor.look()


def test_short_memory_lowers_the_level_and_gives_pages_back(caplog: pytest.LogCaptureFixture) -> None:
    """One line that names resource and reading; a denser run that brings pages back does not keep them."""
    rig = Rig()
    with caplog.at_level(logging.INFO, "nested_sparse.runtime"):
        rig.look(available_memory_bytes=14 * MIB)
        assert rig.told == [(1, "memory: 14 MiB available, 64 wanted")]
        assert rig.model.resident_level == 1
        rig.model.resident_level = 3
        rig.look(available_memory_bytes=64 * MIB)
        assert rig.model.resident_level == 1
        assert len(rig.told) == 1
        rig.look(60, available_memory_bytes=1000 * MIB)
    assert rig.told[-1][0] == 3
    assert [record.getMessage() for record in caplog.records] == [
        "m: memory: 14 MiB available, 64 wanted: highest level 3 -> 1",
        "m: memory: 1000 MiB available, 64 wanted: highest level 1 -> 2",
        "m: memory: 1000 MiB available, 64 wanted: highest level 2 -> 3",
    ]


def test_other_readings_hold_from_the_next_look_on() -> None:
    """A level that fell for a reading which no longer counts rises at once; a model of another scheduler is left."""
    rig = Rig()
    rig.look(available_memory_bytes=14 * MIB)
    rig.governor.change(SimpleNamespace(limit=rig.scheduler.limit), 0, LimitConfig(min_available_memory_bytes=None))
    rig.look(5, available_memory_bytes=64 * MIB)
    assert [level for level, _ in rig.told] == [1]
    rig.governor.change(rig.scheduler, 5)
    rig.look(5)
    assert [level for level, _ in rig.told] == [1]
    rig.governor.change(rig.scheduler, 0, LimitConfig(min_available_memory_bytes=None, max_temperature_celsius=70.0))
    rig.look(temperature_celsius=20.0)
    assert [level for level, _ in rig.told] == [1, 3]
    rig.look(temperature_celsius=80.0)
    assert rig.told[-1] == (2, "temperature: 80 °C, 70 allowed")


def test_threads_follow_the_cores_when_the_change_lasts() -> None:
    """Down after a second, up after ten; what comes and goes is not followed; fixed threads stay."""
    rig, fixed = Rig(), Rig(follows_cores=False)
    for each in (rig, fixed):
        each.look(1.0, usable_cores=2)
        each.look(0.5, usable_cores=4)
        each.look(1.0, usable_cores=2)
        assert each.model.threads == 4
        each.look(2.0)
    assert (rig.model.threads, fixed.model.threads) == (2, 4)
    rig.look(9.0, usable_cores=3)
    assert rig.model.threads == 2
    rig.look(3.0)
    assert rig.model.threads == 3


@pytest.mark.parametrize(
    "absurd",
    [
        {"available_memory_bytes": -1.0},
        {"available_memory_bytes": float("nan")},
        {"usable_cores": 0.0},
        {"usable_cores": float("inf")},
        {"temperature_celsius": 3000.0},
    ],
)
def test_absurd_readings_change_nothing(absurd: Mapping[str, float]) -> None:
    """The model gets no call."""
    rig = Rig()
    rig.look(30, **absurd)
    assert (rig.told, rig.model.resident_level, rig.model.threads) == ([], 3, 4)


def test_one_models_fault_is_not_the_others(caplog: pytest.LogCaptureFixture) -> None:
    """One model's exception is logged, and the next model is still limited."""

    def broken(level: int, reason: str) -> None:
        raise RuntimeError("boom")

    rig = Rig()
    faulty = SimpleNamespace(**vars(rig.model) | {"name": "faulty"})
    rig.governor._watched.clear()
    told: list[int] = []
    rig.governor.watch(faulty, SimpleNamespace(limit=broken), follows_cores=False)
    rig.governor.watch(rig.model, SimpleNamespace(limit=lambda level, _: told.append(level)), follows_cores=False)
    rig.look(available_memory_bytes=0)
    assert told == [0]
    assert "faulty" in caplog.text


def test_a_probe_that_hangs_stops_neither_the_log_nor_the_end() -> None:
    """`latest` answers at once, and close() does not wait for the probe."""
    entered, leave = threading.Event(), threading.Event()

    def hangs() -> dict[str, float]:
        entered.set()
        assert leave.wait(20)
        return {}

    monitor = ResourceMonitor([hangs])
    governor = Governor(monitor, period_s=0.01)
    governor.start()
    assert entered.wait(10)
    assert monitor.latest.usable_cores is None
    governor.close(timeout_s=0.01)
    assert governor._thread.is_alive()
    leave.set()
    governor._thread.join(10)
    assert not governor._thread.is_alive()


def test_the_lowest_priority_gives_its_memory_first() -> None:
    """The one above follows at the next look, if that was not enough."""
    rig = Rig(follows_cores=False)
    low = SimpleNamespace(name="low", levels=rig.model.levels, resident_level=3, threads=1)
    rig.governor.watch(low, SimpleNamespace(limit=lambda *_: None), follows_cores=False, priority=-1)
    rig.model.resident_level = 3
    rig.look(0.5, available_memory_bytes=1)
    assert (low.resident_level, rig.model.resident_level) == (0, 3)
    rig.look(0.5, available_memory_bytes=1)
    assert (low.resident_level, rig.model.resident_level) == (0, 0)
