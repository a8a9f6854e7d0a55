"""Limits: what readings cause, and that constant readings cause no more."""

from __future__ import annotations

import itertools
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from nested_sparse.errors import InputError
from nested_sparse.level import Level
from nested_sparse.runtime.limits import LevelLimit, LimitConfig, Limits
from nested_sparse.runtime.monitor import ResourceSample

LEVELS = tuple(Level(index, (index + 1) / 4, 1, 1, {}) for index in range(4))
CONFIG = LimitConfig(least_memory_bytes=100 << 20, most_celsius=70.0, least_battery_percent=20.0)


def limits_of(samples: list[dict[str, Any]], every_s: float = 1.0, config: LimitConfig = CONFIG) -> list[LevelLimit]:
    limits = Limits(LEVELS, config)
    return [limits.update(ResourceSample(i * every_s, **each), i * every_s) for i, each in enumerate(samples)]


def test_nothing_known_limits_nothing() -> None:
    """A machine without sensors serves as ever."""
    assert set(limits_of([{}] * 5)) == {LevelLimit(3, 3)}


def test_short_memory_takes_all_but_the_lowest_at_once_and_names_the_reading() -> None:
    """And gives a level back every ten seconds once there is half as much again."""
    short, enough = {"available_memory_bytes": 48 << 20}, {"available_memory_bytes": 150 << 20}
    limits = limits_of([{}, short, *[enough] * 35])
    assert limits[1] == LevelLimit(0, 0, "memory: 48 MiB available, 100 MiB wanted")
    assert [limit.resident_level for limit in limits[2:]] == [0] * 9 + [1] * 10 + [2] * 10 + [3] * 6
    assert limits[-1].reason == ""


def test_memory_between_the_marks_changes_nothing() -> None:
    """Just above what is wanted: what fell stays down, what did not fall stays up."""
    near = {"available_memory_bytes": 120 << 20}
    assert limits_of([near] * 30)[-1].resident_level == 3
    assert limits_of([{"available_memory_bytes": 1 << 20}, *[near] * 60])[-1].resident_level == 0


def test_waiting_for_memory_is_short_memory() -> None:
    """By PSI, whatever is said to be available."""
    (limit,) = limits_of([{"memory_stall_percent": 35.0, "available_memory_bytes": 1 << 40}])
    assert (limit.resident_level, limit.reason) == (0, "memory: tasks waited for it 35 % of the time")


def test_heat_falls_step_by_step_and_leaves_the_memory_alone() -> None:
    """One level every five seconds while it is too hot."""
    limits = limits_of([{"temperature_celsius": 75.0}] * 17)
    assert [limit.highest_level for limit in limits] == [2] * 5 + [1] * 5 + [0] * 7
    assert {limit.resident_level for limit in limits} == {3}
    assert limits[0].reason == "heat: 75 °C, at most 70 °C"


def test_a_low_battery_counts_while_it_is_being_used_up() -> None:
    """Not on the mains."""
    low = {"battery_percent": 15.0, "discharging": True}
    assert limits_of([low])[0] == LevelLimit(0, 3, "battery: 15 %, at least 20 %")
    assert limits_of([{**low, "discharging": False}])[0] == LevelLimit(3, 3)


readings = st.fixed_dictionaries(
    {},
    optional={
        "available_memory_bytes": st.integers(0, 400 << 20),
        "memory_stall_percent": st.floats(0, 100),
        "temperature_celsius": st.floats(-20, 120),
        "battery_percent": st.floats(0, 100),
        "discharging": st.booleans(),
    },
)


@settings(max_examples=60, deadline=None)
@given(st.lists(readings, max_size=20), readings)
def test_constant_readings_never_make_it_oscillate(before: list[dict[str, Any]], constant: dict[str, Any]) -> None:
    """Whatever came before: from then on it only falls, or only rises."""
    limits = limits_of([*before, *[constant] * 120])[len(before) :]
    for name in ("highest_level", "resident_level"):
        values = [getattr(limit, name) for limit in limits]
        steps = {after - value for value, after in itertools.pairwise(values)} - {0}
        assert not steps or max(steps) < 0 or min(steps) > 0


@pytest.mark.parametrize("fields", [{"least_memory_bytes": 0}, {"memory_stall_percent": 120.0}, {"most_celsius": -1.0}])
def test_nonsense_is_refused(fields: dict[str, Any]) -> None:
    """With the field's name."""
    with pytest.raises(InputError, match=next(iter(fields))):
        LimitConfig(**fields)
