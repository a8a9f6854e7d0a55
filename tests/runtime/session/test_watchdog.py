"""Watchdog: its limits on a fake clock, and its thread."""

from __future__ import annotations

import logging
import math
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nested_sparse.runtime.session.watchdog import LEAST_STUCK_S, TimeLimits, Watchdog, stuck_after_s


def test_overdue_once_with_the_time_it_took() -> None:
    limits = TimeLimits()
    limits.begin("a", 100.0, 5.0)
    limits.begin("b", 101.0, 1.0)
    assert limits.next_s() == 102.0
    assert limits.overdue(101.9) == []
    assert limits.overdue(103.0) == [("b", 2.0)]
    assert limits.overdue(104.0) == []
    assert limits.next_s() == 105.0
    assert limits.overdue_count == 1
    assert limits.end("b")
    assert limits.overdue_count == 0
    assert not limits.end("b")
    assert not limits.end("a")
    assert math.isinf(limits.next_s())


def test_a_key_that_begins_anew_is_not_overdue() -> None:
    limits = TimeLimits()
    limits.begin("a", 0.0, 1.0)
    assert limits.overdue(1.0) == [("a", 1.0)]
    limits.begin("a", 2.0, 1.0)
    assert limits.overdue_count == 0
    assert not limits.end("a")


def test_time_in_which_the_process_stood_still_counts_for_no_run() -> None:
    limits = TimeLimits()
    limits.begin("a", 0.0, 10.0)
    limits.renew(300.0)
    assert limits.overdue(309.0) == []
    assert limits.overdue(310.0) == [("a", 310.0)]


Step = st.tuples(st.sampled_from("be"), st.integers(0, 4), st.floats(0.1, 9.0), st.floats(0.0, 3.0))


@given(st.lists(Step, max_size=60))
def test_exactly_the_runs_over_their_limit_are_reported(steps: list[tuple[str, int, float, float]]) -> None:
    """Against a table that is looked through at each moment."""
    limits, now_s = TimeLimits(), 0.0
    ends_s: dict[int, float] = {}
    reported: set[int] = set()
    for kind, key, limit_s, passed_s in steps:
        now_s += passed_s
        found = {each for each, _ in limits.overdue(now_s)}
        assert found == {each for each, end_s in ends_s.items() if end_s <= now_s} - reported
        reported |= found
        if kind == "b":
            limits.begin(key, now_s, limit_s)
            ends_s[key] = now_s + limit_s
            reported.discard(key)
        else:
            assert limits.end(key) == (key in reported)
            ends_s.pop(key, None)
            reported.discard(key)
        assert limits.overdue_count == len(reported)


def test_the_thread_reports_stuck_runs_and_no_others() -> None:
    """An earlier limit wakes it, what on_stuck raises does not end it, and keys that ended are never reported.

    On a clock that stands still until `ended` has ended, however long that takes.
    """
    seen: list[object] = []
    now_s = 0.0
    reported = threading.Semaphore(0)

    def on_stuck(key: object, elapsed_s: float) -> None:
        assert elapsed_s > 0.0
        seen.append(key)
        reported.release()
        if key == "first":
            raise ValueError("a fault of the one who is told")

    watchdog = Watchdog(on_stuck, lambda: now_s)
    try:
        watchdog.begin("late", 3600.0)
        watchdog.begin("ended", 0.01)
        assert not watchdog.end("ended")
        watchdog.begin("first", 0.01)
        now_s = 0.02
        assert reported.acquire(timeout=60)
        watchdog.begin("second", 0.01)
        now_s = 0.04
        assert reported.acquire(timeout=60)
        assert seen == ["first", "second"]
        assert watchdog.stuck_count == 2
        assert watchdog.end("first")
        assert watchdog.end("second")
        assert not watchdog.end("late")
        assert watchdog.stuck_count == 0
    finally:
        watchdog.close()


def test_short_tasks_do_not_wake_the_thread_each() -> None:
    """The first one does; those after it end long before the time at which the thread will look by itself."""
    watchdog = Watchdog[int](lambda key, elapsed_s: None)
    wait, sleeps = watchdog._changed.wait, []

    def sleep(timeout_s: float | None = None) -> bool:
        if threading.current_thread() is watchdog._thread:
            sleeps.append(timeout_s)
        return wait(timeout_s)

    watchdog._changed.wait = sleep  # type: ignore[method-assign]
    try:
        for key in range(200):
            watchdog.begin(key, 300.0)
            assert not watchdog.end(key)
            time.sleep(1e-4)  # in which the thread would find nothing to watch
        assert len(sleeps) <= 2
    finally:
        watchdog.close()


def test_a_failing_report_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    failed = threading.Event()

    def on_stuck(key: object, elapsed_s: float) -> None:
        failed.set()
        raise ValueError("broken")

    watchdog = Watchdog(on_stuck)
    with caplog.at_level(logging.ERROR, "nested_sparse.runtime"):
        watchdog.begin("run 7", 0.0)
        assert failed.wait(20)
        watchdog.close()
    assert "run 7" in caplog.text


def test_a_process_that_stood_still_finds_nothing_stuck() -> None:
    """The clock leaps by an hour while the watchdog sleeps: what it watches did not run either."""
    now_s, sleeps_s = 0.0, list[float]()
    reported = threading.Event()

    def on_stuck(key: object, elapsed_s: float) -> None:
        assert len(sleeps_s) > 1, "the leap was taken for the run's own time"
        reported.set()

    watchdog = Watchdog(on_stuck, lambda: now_s)
    wait = watchdog._changed.wait

    def sleep(timeout_s: float | None = None) -> bool:
        """The clock goes on by what is slept, and by an hour in the first sleep."""
        nonlocal now_s
        woken = wait(timeout_s)
        if timeout_s is not None and not woken:
            now_s += timeout_s if sleeps_s else 3600.0
            sleeps_s.append(timeout_s)
        return woken

    watchdog._changed.wait = sleep  # type: ignore[method-assign]
    try:
        watchdog.begin("run", 0.05)
        assert reported.wait(60)
        assert sleeps_s[:2] == pytest.approx([0.05, 0.05])
        assert watchdog.end("run")
    finally:
        watchdog.close()


def test_limit_of_a_run() -> None:
    """At least LEAST_STUCK_S, for short runs may stand behind anything; else in proportion."""
    assert stuck_after_s(1.0) == LEAST_STUCK_S
    assert stuck_after_s(2000.0) == 40.0
