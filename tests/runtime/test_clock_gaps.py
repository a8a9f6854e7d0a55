"""Clock gaps: leaps of the monotonic clock after a suspended machine or a stopped process, in virtual time."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from nested_sparse.runtime.scheduling.request import Request
from nested_sparse.runtime.simulation import SimulatedOutcome

PERIOD_S = 0.05
"""Of requests that arrive one at a time: 14 ms of work at the densest level, so nothing ever waits."""


def steady(from_s: float, until_s: float) -> list[tuple[float, dict[str, object]]]:
    count = round((until_s - from_s) / PERIOD_S)
    return [(from_s + index * PERIOD_S, {"slo_ms": 100.0}) for index in range(count)]


def states(outcomes: list[SimulatedOutcome]) -> list[str]:
    """How each ended, and that it did."""
    assert all(outcome.future.done() for outcome in outcomes)
    return ["shed" if each.shed else "expired" if each.expired else str(each.level) for each in outcomes]


@pytest.mark.parametrize("gap_s", [1.0, 300.0, 86_400.0 * 30])
def test_a_gap_between_requests(rig: Callable[..., Any], gap_s: float) -> None:
    """After it the first request is served as the last before it: densest."""
    r = rig()
    before = states(r.play(steady(0.0, 2.0)))
    r.clock.advance_to(r.clock() + gap_s)
    after = states(r.play(steady(0.0, 2.0)))
    assert before[-1] == after[0] == after[-1] == "3"
    assert set(after) == {"3"}
    assert math.isfinite(r.scheduler.stats().slowdown)


@pytest.mark.parametrize("stop_s", [1.0, 300.0, 86_400.0])
def test_a_run_that_the_stop_fell_into(rig: Callable[..., Any], stop_s: float) -> None:
    """It is late; no more than a second of requests after it are shed, and after ten all are served densest again."""
    stopped_at: list[float] = []

    def slowdown(now_s: float) -> float:
        if now_s - begin_s >= 0.93 and not stopped_at:
            stopped_at.append(now_s)
            return stop_s / 14e-3
        return 1.0

    r = rig(slowdown=slowdown)
    begin_s = r.clock()
    during = r.play(steady(0.0, 1.0))
    assert len(stopped_at) == 1
    assert states(during)[-1] not in ("shed", "expired")
    assert not during[-1].in_time
    outcomes = r.play(steady(0.0, 12.0))
    after = states(outcomes)
    assert sum(state in ("shed", "expired") for state in after) <= round(1.0 / PERIOD_S)
    assert set(after[round(10.0 / PERIOD_S) :]) == {"3"}
    assert math.isfinite(r.scheduler.stats().slowdown)
    assert sum(outcome.late for outcome in during + outcomes) == 1


@pytest.mark.parametrize("stop_s", [1.0, 300.0])
def test_requests_that_waited_through_the_stop_expire(rig: Callable[..., Any], stop_s: float) -> None:
    """They end as expired, without having run; requests that come later are served."""
    r = rig()
    r.clock.advance_to(r.clock() + 1.0)
    waiting = [
        r.scheduler.submit(request) for request in [Request({"x": np.zeros((1, 3), np.float32)}, slo_ms=100.0)] * 5
    ]
    r.clock.advance_to(r.clock() + stop_s)
    while r.scheduler.serve_next():
        pass
    assert [type(each.exception(0)).__name__ for each in waiting] == ["DeadlineError"] * 5
    assert r.session.runs == []
    assert set(states(r.play(steady(0.0, 1.0)))) == {"3"}


def test_a_clock_that_stands_still(rig: Callable[..., Any]) -> None:
    """Runs of no time at all divide nothing by zero."""
    r = rig(slowdown=lambda now_s: 0.0)
    assert set(states(r.play(steady(0.0, 1.0)))) == {"3"}
    assert math.isfinite(r.scheduler.stats().slowdown)
