"""Stuck run: its clients get an answer, and the scheduler serves again when the run ends."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from fake_sessions import FakeSession

from nested_sparse.errors import DeadlineError, StuckError
from nested_sparse.runtime.policy.elastic import ElasticPolicy
from nested_sparse.runtime.profiling.profile import LatencyProfile
from nested_sparse.runtime.scheduling import running_jobs as module
from nested_sparse.runtime.scheduling.device import Device
from nested_sparse.runtime.scheduling.request import Request
from nested_sparse.runtime.scheduling.scheduler import Scheduler

X = {"x": np.ones((1, 3), np.float32)}


class Gated(FakeSession):
    """Waits in run() while `gate` is closed."""

    def __init__(self, like: Any) -> None:
        super().__init__(like)
        self.entered = threading.Event()
        self.gate = threading.Event()
        self.fault: Exception | None = None

    def run(self, inputs: dict[str, np.ndarray], level: int) -> dict[str, np.ndarray]:
        self.entered.set()
        assert self.gate.wait(60)
        if self.fault is not None:
            raise self.fault
        return {"y": inputs["x"] * 2}


@pytest.fixture
def gated(rig: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Iterator[Gated]:
    monkeypatch.setattr(module, "stuck_after_s", lambda predicted_ms: 1.0)  # far above a busy machine's pauses
    session = Gated(rig().session)
    yield session
    session.gate.set()


def scheduler_of(session: Gated, **options: Any) -> Scheduler:
    profile = LatencyProfile((1,), [[0.01]] * len(session.levels))
    return Scheduler(session, profile, ElasticPolicy(profile), default_slo_ms=60_000.0, **options)


def wait_until(condition: Callable[[], bool]) -> None:
    end_s = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end_s
        time.sleep(0.005)


@pytest.mark.parametrize("fault", [None, ValueError("late, and broken")])
def test_everybody_gets_an_answer(gated: Gated, fault: Exception | None) -> None:
    """The request that runs, and those behind it at their deadlines; all is well once it has ended, however it did."""
    scheduler = scheduler_of(gated)
    gated.fault = fault
    first = scheduler.submit(Request(X))
    assert gated.entered.wait(60)
    behind = [scheduler.submit(Request(X, slo_ms=300.0)) for _ in range(3)]
    assert isinstance(first.exception(60), StuckError)
    assert "has run for" in str(first.exception(0))
    for future in behind:
        assert isinstance(future.exception(60), DeadlineError)
    assert scheduler.stats().stuck == 1
    gated.gate.set()
    wait_until(lambda: scheduler.stats().stuck == 0)
    gated.fault = None
    np.testing.assert_array_equal(scheduler.submit(Request(X)).result(60).outputs["y"], 2 * X["x"])
    assert scheduler.stats().queue_length == 0
    assert gated.stopped == [thread.ident for thread in scheduler._threads]
    scheduler.close()


def test_another_model_gets_the_slot(gated: Gated, rig: Callable[..., Any]) -> None:
    device = Device()
    other_session = Gated(rig().session)
    other_session.gate.set()
    stuck, other = scheduler_of(gated, device=device), scheduler_of(other_session, device=device)
    first = stuck.submit(Request(X))
    assert gated.entered.wait(60)
    waiting = other.submit(Request(X))
    assert isinstance(first.exception(60), StuckError)
    np.testing.assert_array_equal(waiting.result(60).outputs["y"], 2 * X["x"])
    assert other.stats().stuck == 0
    other.close()


def test_closing_does_not_wait_for_it(gated: Gated) -> None:
    scheduler = scheduler_of(gated)
    first = scheduler.submit(Request(X))
    assert isinstance(first.exception(60), StuckError)
    scheduler.close(0.1)
    assert scheduler.stats().stuck == 1


def test_a_second_worker_goes_on(gated: Gated) -> None:
    """One of two is stuck: what waits is served by the other."""
    scheduler = scheduler_of(gated, workers=2)
    first = scheduler.submit(Request(X))
    assert isinstance(first.exception(60), StuckError)
    gated.entered.clear()
    second = scheduler.submit(Request(X))
    assert gated.entered.wait(60)
    gated.gate.set()
    np.testing.assert_array_equal(second.result(60).outputs["y"], 2 * X["x"])
    scheduler.close()
