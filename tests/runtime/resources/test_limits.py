"""Limits: the highest level by memory, heat and charge."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from nested_sparse.errors import InputError
from nested_sparse.level import Level
from nested_sparse.runtime.resources.limits import LevelLimit, LevelLimiter, LimitConfig
from nested_sparse.runtime.resources.monitor import ResourceSample

MIB = 2**20
LEVELS = tuple(Level(i, 0.2 * (i + 1), 1, nbytes * MIB, {}) for i, nbytes in enumerate((10, 20, 40, 80)))
EVERYTHING = LimitConfig(
    memory_stall_percent=20.0, max_temperature_celsius=80.0, min_frequency_share=0.5, min_battery_percent=20.0
)
WELL = ResourceSample(
    0.0,
    memory_stall_percent=0.0,
    temperature_celsius=40.0,
    frequency_mhz=2000.0,
    max_frequency_mhz=2000.0,
    battery_percent=90.0,
    discharging=True,
    available_memory_bytes=1000 * MIB,
)


def highest(limits: LevelLimiter, sample: ResourceSample, begin_s: float, end_s: float) -> list[int]:
    """The highest level at each half second of the time."""
    return [limits.update(sample, begin_s + i / 2).highest_level for i in range(int((end_s - begin_s) * 2))]


def test_memory_falls_at_once_as_far_as_is_short() -> None:
    """48 of 64 MiB: giving back 16 takes level 3 to 2; 4 of 64: level 0 is the least there is. The reading is named."""
    limits = LevelLimiter(LEVELS, LimitConfig())
    assert limits.update(WELL, 0.0) == LevelLimit(3, 3, "")
    short = replace(WELL, available_memory_bytes=48 * MIB)
    assert limits.update(short, 0.5) == LevelLimit(2, 2, "memory: 48 MiB available, 64 wanted")
    assert limits.update(replace(WELL, available_memory_bytes=4 * MIB), 1.0).resident_level == 0


def test_rises_a_level_at_a_time_after_the_wait_and_only_where_it_fits() -> None:
    """From 0: level 1 after 10 s, 2 after 20; level 3 would leave less than what is wanted, so never."""
    limits = LevelLimiter(LEVELS, LimitConfig())
    limits.update(replace(WELL, available_memory_bytes=0), 0.0)
    levels = highest(limits, replace(WELL, available_memory_bytes=(64 + 16 + 20) * MIB), 1.0, 100.0)
    assert levels[19:21] == [0, 1]
    assert levels[39:41] == [1, 2]
    assert levels[-1] == 2


def test_a_rise_that_did_not_last_waits_longer() -> None:
    """Pressure that comes back as soon as the level rises makes each wait twice the one before."""
    limits = LevelLimiter(LEVELS[:2], LimitConfig(rise_s=10.0))
    rises, level, now_s = [], 1, 0.0
    while len(rises) < 4:
        available = 0 if level else 1000 * MIB
        before, level = level, limits.update(replace(WELL, available_memory_bytes=available), now_s).highest_level
        if level > before:
            rises.append(now_s)
        now_s += 0.5
    gaps = [b - a for a, b in itertools.pairwise(rises)]
    assert gaps[0] >= 20.0
    assert all(1.8 < later / earlier < 2.2 for earlier, later in itertools.pairwise(gaps))


def test_heat_takes_a_level_at_a_time() -> None:
    """One level every 5 s while too hot; between the thresholds nothing; memory stays where it is."""
    limits = LevelLimiter(LEVELS, EVERYTHING)
    levels = highest(limits, replace(WELL, temperature_celsius=85.0), 0.0, 20.0)
    assert [levels.index(level) / 2 for level in (2, 1, 0)] == [0.0, 5.0, 10.0]
    lukewarm = limits.update(replace(WELL, temperature_celsius=77.0), 100.0)
    assert lukewarm == LevelLimit(0, 3, "temperature: 85 °C, 80 allowed")
    assert highest(limits, replace(WELL, temperature_celsius=60.0), 100.0, 140.0)[-1] == 3


@pytest.mark.parametrize(
    ("reading", "cause"),
    [
        ({"frequency_mhz": 700.0}, "frequency: 700 of 2000 MHz, 1000 wanted"),
        ({"battery_percent": 15.0}, "battery: 15 %, discharging, 20 wanted"),
        ({"memory_stall_percent": 55.0}, "memory: tasks wait for it 55 % of the time, 20 allowed"),
    ],
)
def test_each_cause_is_named_and_off_unless_asked_for(reading: dict[str, float], cause: str) -> None:
    """With the defaults only memory counts; when all is well again, what made the level rise is named."""
    bad = replace(WELL, **reading)  # type: ignore[arg-type]
    assert LevelLimiter(LEVELS, LimitConfig()).update(bad, 0.0).highest_level == 3
    limits = LevelLimiter(LEVELS, EVERYTHING)
    found = limits.update(bad, 0.0)
    assert found.highest_level < 3
    assert found.reason == cause
    for i in range(200):
        found = limits.update(WELL, 1.0 + i)
    assert found.highest_level == 3
    assert found.reason.split(":")[0] == cause.split(":")[0]


def test_on_mains_the_charge_does_not_matter() -> None:
    """Falls to the level given, not further."""
    limits = LevelLimiter(LEVELS, LimitConfig(min_battery_percent=20.0, battery_level=1))
    assert limits.update(replace(WELL, battery_percent=5.0, discharging=False), 0.0).highest_level == 3
    assert limits.update(replace(WELL, battery_percent=5.0), 0.5).highest_level == 1


samples = st.builds(
    ResourceSample,
    time_s=st.just(0.0),
    memory_stall_percent=st.none() | st.floats(0, 100),
    temperature_celsius=st.none() | st.floats(-60, 150),
    frequency_mhz=st.none() | st.floats(1, 5000),
    max_frequency_mhz=st.none() | st.floats(1, 5000),
    battery_percent=st.none() | st.floats(0, 100),
    discharging=st.none() | st.booleans(),
    available_memory_bytes=st.none() | st.integers(0, 400 * MIB),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(samples, max_size=6), samples)
def test_constant_readings_never_oscillate(before: list[ResourceSample], constant: ResourceSample) -> None:
    """After any history, each cause moves in one direction only, so the level changes direction at most once."""
    limits = LevelLimiter(LEVELS, EVERYTHING)
    for i, sample in enumerate(before):
        limits.update(sample, i * 30.0)
    levels = highest(limits, constant, 1000.0, 3000.0)
    turns = [b - a for a, b in itertools.pairwise(levels) if a != b]
    signs = [math.copysign(1, turn) for turn in turns]
    assert sum(a != b for a, b in itertools.pairwise(signs)) <= 1
    assert len(set(levels[len(levels) // 2 :])) == 1


@settings(max_examples=60, deadline=None)
@given(st.lists(samples, max_size=6), st.lists(st.floats(-100, 100), min_size=1, max_size=6))
def test_no_reading_changes_nothing(before: list[ResourceSample], steps_s: list[float]) -> None:
    """A machine that says nothing more keeps its limits, also where the clock steps back."""
    limits = LevelLimiter(LEVELS, EVERYTHING)
    found = LevelLimit(3, 3, "")
    for i, sample in enumerate(before):
        found = limits.update(sample, i * 30.0)
    now_s = 200.0
    for step_s in steps_s:
        now_s += step_s
        assert limits.update(ResourceSample(now_s), now_s) == found


@pytest.mark.parametrize(
    "wrong",
    [
        {"min_available_memory_bytes": -1},
        {"max_temperature_celsius": math.nan},
        {"min_battery_percent": 101.0},
        {"min_frequency_share": 1.0},
        {"rise_s": -1.0},
        {"battery_level": -1},
    ],
)
def test_config_is_checked(wrong: dict[str, float]) -> None:
    """The field is named."""
    with pytest.raises(InputError, match=next(iter(wrong))):
        LimitConfig(**wrong)  # type: ignore[arg-type]
