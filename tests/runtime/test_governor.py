"""Governor: models obey what the sensors say."""

from __future__ import annotations

import logging
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from nested_sparse.level import Level
from nested_sparse.runtime.governor import CORES_FOR_S, Governor
from nested_sparse.runtime.limits import LimitConfig
from nested_sparse.runtime.monitor import ResourceMonitor

LEVELS = tuple(Level(index, (index + 1) / 4, 1, 1, {}) for index in range(4))


class FakeModel:
    """A session and its scheduler, which remember what they are told."""

    def __init__(self, name: str) -> None:
        self.name, self.levels, self.threads = name, LEVELS, 4
        self.shrunk: list[int] = []
        self.limits: list[tuple[int, str]] = []

    def shrink(self, level: int) -> int:
        self.shrunk.append(level)
        return 3 << 20

    def limit(self, highest_level: int, reason: str) -> None:
        self.limits.append((highest_level, reason))


class Bench:
    """A governor driven by hand over readings set by hand."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.readings: dict[str, float] = {}
        monitor = ResourceMonitor([lambda: self.readings], lambda: self.now_s, min_interval_s=0.0)
        config = LimitConfig(least_memory_bytes=100 << 20)
        self.governor = Governor(monitor, config, clock=lambda: self.now_s)

    def watch(self, name: str, **options: Any) -> FakeModel:
        model = FakeModel(name)
        self.governor.watch(model, model, **options)  # type: ignore[arg-type]
        return model

    def step(self, seconds: float = 1.0, **readings: float) -> None:
        self.now_s += seconds
        self.readings = readings
        self.governor.step()


def test_short_memory_shrinks_and_says_why(caplog: pytest.LogCaptureFixture) -> None:
    """The session gives back, the scheduler is limited, one line each names the reading; then nothing more is said."""
    bench = Bench()
    model = bench.watch("net")
    with caplog.at_level(logging.INFO, "nested_sparse.runtime"):
        for _ in range(5):
            bench.step(available_memory_bytes=50 << 20)
    assert model.shrunk == [0]
    assert model.limits == [(0, "memory: 50 MiB available, 100 MiB wanted")]
    assert len(caplog.messages) == 2
    assert all("memory: 50 MiB available" in message for message in caplog.messages)


def test_the_lowest_priority_gives_first() -> None:
    """The one above follows at the next look if that was not enough."""
    bench = Bench()
    high, low = bench.watch("high", priority=5), bench.watch("low")
    bench.step(available_memory_bytes=50 << 20)
    assert (low.shrunk, high.shrunk) == ([0], [])
    bench.step(available_memory_bytes=50 << 20)
    assert (low.shrunk, high.shrunk) == ([0], [0])


def test_threads_follow_the_cores_after_a_while() -> None:
    """A quota that lasts changes them, one that flickers does not, and fixed threads stay."""
    bench = Bench()
    following, fixed = bench.watch("a", follows_cores=True), bench.watch("b")
    for cores in (2, 4, 2, 4):
        bench.step(1.0, usable_cores=cores)
    assert following.threads == 4
    for _ in range(int(CORES_FOR_S) + 2):
        bench.step(1.0, usable_cores=2)
    assert (following.threads, fixed.threads) == (2, 4)


def test_lying_and_failing_sensors_change_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """3000 °C, minus one byte, a hundred thousand cores: each is named once."""
    bench = Bench()
    model = bench.watch("net", follows_cores=True)
    with caplog.at_level(logging.WARNING, "nested_sparse.runtime"):
        for _ in range(10):
            bench.step(temperature_celsius=3000.0, available_memory_bytes=-1.0, usable_cores=1e5)
    assert (model.limits, model.shrunk, model.threads) == ([], [], 4)
    assert len(caplog.messages) == 3


def test_a_probe_that_hangs_holds_up_nobody() -> None:
    """stop() returns while the governor's thread still waits for the probe."""
    hanging, entered = threading.Event(), threading.Event()

    def probe() -> dict[str, float]:
        entered.set()
        hanging.wait(20)
        return {}

    governor = Governor(ResourceMonitor([probe]), period_s=0.01)
    governor.start()
    assert entered.wait(20)
    governor.stop()
    hanging.set()


def test_a_model_that_cannot_change_its_threads_keeps_them() -> None:
    """And is not asked again."""
    bench = Bench()
    model = bench.watch("net", follows_cores=True)

    class Stubborn(FakeModel):
        @property
        def threads(self) -> int:
            return 4

        @threads.setter
        def threads(self, threads: int) -> None:
            if threads != 4:
                self.asked = getattr(self, "asked", 0) + 1
                raise MemoryError

    stubborn = Stubborn("stubborn")
    bench.governor.watch(stubborn, SimpleNamespace(limit=lambda *_: None), follows_cores=True)  # type: ignore[arg-type]
    for _ in range(12):
        bench.step(1.0, usable_cores=2)
    assert stubborn.asked == 1
    assert model.threads == 2
