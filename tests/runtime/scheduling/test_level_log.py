"""LevelLog: its lines on a fake clock."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from nested_sparse.runtime.resources.monitor import ResourceMonitor
from nested_sparse.runtime.scheduling.level_log import EVERY_S, MOST_S, LevelLog

Log = Callable[[Iterable[tuple[float, int]]], list[tuple[float, str]]]


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Log:
    """The lines that a row of (seconds, level) gives, each with its time."""
    log = LevelLog("net", None)

    def play(notes: Iterable[tuple[float, int]]) -> list[tuple[float, str]]:
        found = []
        with caplog.at_level(logging.INFO, "nested_sparse.runtime"):
            for now_s, level in notes:
                log.note(level, "why", 1.0, 0, now_s)
                found += [(now_s, record.getMessage()) for record in caplog.records]
                caplog.clear()
        return found

    return play


def test_the_first_level_is_no_change(lines: Log) -> None:
    """A level that stays is not a change either."""
    assert lines((i * 0.1, 3) for i in range(100)) == []


def test_a_change_is_said_at_once_and_with_its_cause(lines: Log) -> None:
    """One line, without a summary where there is nothing to sum up."""
    assert lines([(0.0, 3), (1.0, 3), (2.0, 1), (3.0, 1)]) == [
        (2.0, "net: level 3 -> 1: why; slowdown 1.00, 0 waiting")
    ]


def test_a_level_that_changes_again_and_again_is_logged_more_and_more_rarely(lines: Log) -> None:
    """An hour at 20 requests a second, every other one at another level: two dozen lines, far apart and summed up."""
    found = lines((i * 0.05, 3 - i % 2) for i in range(72_000))
    times_s = [now_s for now_s, _ in found]
    gaps_s = [later - sooner for sooner, later in itertools.pairwise(times_s)]
    assert len(found) <= 20
    assert min(gaps_s) >= EVERY_S
    assert all(later > sooner - 0.1 for sooner, later in itertools.pairwise(gaps_s))
    assert gaps_s[-1] == pytest.approx(MOST_S, abs=0.1)
    assert found[-1][1].endswith(" changes in 300 s; levels 2: 50 %, 3: 50 %)")


def test_a_level_that_came_back_soon_is_said_to_be_back(lines: Log) -> None:
    """A second after it fell, too soon for a line: it is said as soon as there may be one."""
    levels = {2.0: 0, 3.0: 3}
    found = lines((0.5 * i, levels.get(0.5 * i, 0 if 2.0 <= 0.5 * i < 3.0 else 3)) for i in range(40))
    assert [now_s for now_s, _ in found] == [2.0, 2.0 + EVERY_S]
    assert "level 0 -> 3" in found[1][1]


def test_a_level_that_was_not_named_is_news_at_any_time(lines: Log) -> None:
    """After twenty minutes between two levels, a third: said at once."""
    to_and_fro = [(i * 0.05, 3 - i % 2) for i in range(24_000)]
    assert lines([*to_and_fro, (1200.0, 0)])[-1][0] == 1200.0


def test_after_long_quiet_a_change_is_news_again(lines: Log) -> None:
    """The same two levels, a quarter of an hour later."""
    to_and_fro = [(i * 0.05, 3 - i % 2) for i in range(12_000)]
    later = [(1500.0, 2), (1501.0, 3)]
    assert lines([*to_and_fro, *later])[-1][0] in (1500.0, 1501.0)


def test_level_changes_are_logged_with_their_cause(rig: Callable[..., Any], caplog: pytest.LogCaptureFixture) -> None:
    """With the reason and what the sensors say, and what lies between two lines in a few words."""
    stalled = {"cpu_stall_us": 0.0}
    monitor_clock = iter(float(i) for i in range(1000))

    def stall() -> dict[str, float]:
        stalled["cpu_stall_us"] += 400_000.0
        return dict(stalled)

    monitor = ResourceMonitor([stall], lambda: next(monitor_clock), min_interval_s=0.0)
    for _ in range(2):  # as a governor does; shares need two
        monitor.sample()
    r = rig(monitor=monitor)
    with caplog.at_level(logging.INFO, "nested_sparse.runtime"):
        r.play([(0.05 * i, {"slo_ms": (100.0, 12.0)[i % 2]}) for i in range(141)])
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 2
    assert lines[0].startswith("virtual: level 3 -> 2: ")
    assert lines[0].endswith("slowdown 1.00, 0 waiting; cpu stall 40 %")
    assert lines[1].endswith(" changes in 5 s; levels 2: 50 %, 3: 50 %)")


def test_a_level_that_clients_chose_is_no_change_of_the_server_s(
    rig: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    """By its number, or by an accuracy that only the densest has: not logged, nor reckoned with by other models."""
    r = rig()
    with caplog.at_level(logging.INFO, "nested_sparse.runtime"):
        r.play([(0.1 * i, ({"level": i % 4}, {})[i % 2]) for i in range(20)])
        r.play([(0.1 * i, {"slo_ms": 12.0}) for i in range(8)])  # time for level 2 at most
        caplog.clear()
        r.play([(0.1 * i, ({"min_accuracy": 0.97}, {"slo_ms": 12.0})[i % 2]) for i in range(20)])
        r.play([(0.0, {"level": 0})])
    assert not caplog.records
    assert r.scheduler._dispatcher._present_level == 2
