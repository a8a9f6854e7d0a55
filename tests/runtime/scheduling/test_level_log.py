"""LevelLog: its lines on a fake clock."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterable

import pytest

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
    """Nor is a level that stays."""
    assert lines((i * 0.1, 3) for i in range(100)) == []


def test_a_change_is_said_at_once_and_with_its_cause(lines: Log) -> None:
    """One line, without a summary where there is nothing to sum up."""
    assert lines([(0.0, 3), (1.0, 3), (2.0, 1), (3.0, 1)]) == [
        (2.0, "net: level 3 -> 1: why; slowdown 1.00, 0 waiting")
    ]


def test_a_level_that_goes_to_and_fro_says_less_and_less(lines: Log) -> None:
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
