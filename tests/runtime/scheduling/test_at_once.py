"""At once: a short request runs in the thread that submits it where nothing is before it, and in a worker elsewhere."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import numpy as np
import pytest
from fake_sessions import FakeSession

from nested_sparse.errors import DeadlineError, InputError, KernelError, StuckError, UnavailableError
from nested_sparse.runtime.policy.elastic import ElasticPolicy
from nested_sparse.runtime.profiling.profile import LatencyProfile
from nested_sparse.runtime.scheduling import running_jobs
from nested_sparse.runtime.scheduling.device import Device
from nested_sparse.runtime.scheduling.request import Request, Response
from nested_sparse.runtime.scheduling.scheduler import Scheduler

X = {"x": np.ones((1, 3), np.float32)}
PROFILED_MS = (0.01, 0.02, 0.03, 0.04)


class Threads(FakeSession):
    """Keeps the thread of each run; `gate` holds the runs of other threads than the test's."""

    def __init__(self, like: Any) -> None:
        super().__init__(like)
        self.threads: list[int] = []
        self.gate = threading.Event()
        self.entered = threading.Event()
        self.fault: Exception | None = None
        self._test = threading.get_ident()

    def run(self, inputs: dict[str, np.ndarray], level: int) -> dict[str, np.ndarray]:
        self.threads.append(threading.get_ident())
        self.entered.set()
        if threading.get_ident() != self._test:
            assert self.gate.wait(60)
        if self.fault is not None:
            raise self.fault
        return {"y": inputs["x"] * 2}


@pytest.fixture
def session(rig: Callable[..., Any]) -> Threads:
    return Threads(rig().session)


def scheduler_of(session: Threads, at_once_ms: float, **options: Any) -> Scheduler:
    profile = LatencyProfile((1, 8), [[ms, 8 * ms] for ms in PROFILED_MS])
    settings = {"default_slo_ms": 60_000.0, **options}
    return Scheduler(session, profile, ElasticPolicy(profile), at_once_ms=at_once_ms, **settings)


def test_a_short_run_is_done_when_submit_returns(session: Threads) -> None:
    scheduler = scheduler_of(session, 1.0)
    response = scheduler.submit(Request(X)).result(0)
    np.testing.assert_array_equal(response.outputs["y"], 2 * X["x"])
    assert session.threads == [threading.get_ident()]
    assert response.level.index == 3
    assert response.queue_us >= 0
    assert scheduler.submit(Request(X, level=1)).result(0).level.index == 1
    scheduler.close()
    assert isinstance(scheduler.submit(Request(X)).exception(0), UnavailableError)


@pytest.mark.parametrize(("at_once_ms", "batch"), [(0.0, 1), (0.035, 1), (0.1, 8)])
def test_a_run_that_may_take_longer_is_a_worker_s(session: Threads, at_once_ms: float, batch: int) -> None:
    """The densest level that may be chosen counts, with the request's batch."""
    session.gate.set()
    scheduler = scheduler_of(session, at_once_ms)
    scheduler.submit(Request({"x": np.ones((batch, 3), np.float32)})).result(60)
    assert session.threads != [threading.get_ident()]
    assert len(session.threads) == 1
    scheduler.close()


def test_a_limit_makes_runs_short(session: Threads) -> None:
    scheduler = scheduler_of(session, 0.025)
    scheduler.limit(1, "heat")
    assert scheduler.submit(Request(X)).result(0).level.index == 1
    assert session.threads == [threading.get_ident()]
    scheduler.close()


def test_where_a_run_is_under_way_the_next_one_waits(session: Threads) -> None:
    """The device has one slot; whichever model has it."""
    device = Device()
    slow, quick = scheduler_of(session, 0.0, device=device), scheduler_of(session, 1.0, device=device)
    first = slow.submit(Request(X))
    assert session.entered.wait(60)
    second, third = quick.submit(Request(X)), slow.submit(Request(X))
    assert not second.done()
    session.gate.set()
    for future in (first, second, third):
        np.testing.assert_array_equal(future.result(60).outputs["y"], 2 * X["x"])
    assert threading.get_ident() not in session.threads
    np.testing.assert_array_equal(quick.submit(Request(X)).result(60).outputs["y"], 2 * X["x"])
    for scheduler in (slow, quick):
        scheduler.close()


def test_an_error_is_in_the_future(session: Threads) -> None:
    scheduler = scheduler_of(session, 1.0)
    session.fault = RuntimeError("once")
    assert str(scheduler.submit(Request(X)).exception(0)) == "once"
    session.fault = None
    assert isinstance(scheduler.submit(Request(X, timeout_ms=0.0)).exception(0), DeadlineError)
    scheduler.submit(Request(X)).result(0)
    assert scheduler.stats().queue_length == 0
    scheduler.close()


def test_run_or_queue_gives_the_response_itself_or_a_future(session: Threads) -> None:
    """Nothing is to be waited for, and then a run is under way."""
    scheduler = scheduler_of(session, 1.0)
    response = scheduler.run_or_queue(Request(X))
    assert isinstance(response, Response)
    np.testing.assert_array_equal(response.outputs["y"], 2 * X["x"])
    slow = scheduler_of(session, 0.0, device=scheduler._device)
    first = slow.run_or_queue(Request(X))
    assert session.entered.wait(60)
    second = scheduler.run_or_queue(Request(X))
    session.gate.set()
    for waiting in (first, second):
        assert isinstance(waiting, Future)
        np.testing.assert_array_equal(waiting.result(60).outputs["y"], 2 * X["x"])
    for each in (slow, scheduler):
        each.close()


@pytest.mark.parametrize("kind", [DeadlineError, KernelError, InputError])
def test_run_or_queue_raises_and_keeps_nothing_of_the_request(session: Threads, kind: type[Exception]) -> None:
    """A refused request, and runs that fail: nothing waits for Python's garbage collector, not the request's array."""
    scheduler = scheduler_of(session, 1.0)
    refused = kind is DeadlineError
    session.fault = None if refused else kind("as told")
    array = np.ones((1, 3), np.float32)
    array_of = weakref.ref(array)
    request = Request({"x": array}, timeout_ms=0.0 if refused else None)
    gc.collect()
    gc.disable()
    try:
        with pytest.raises(kind):
            scheduler.run_or_queue(request)
        session.fault = None
        del request, array
        assert array_of() is None
    finally:
        gc.enable()
    scheduler.close()


@pytest.mark.parametrize("rest_s", [0.0, 0.3])
def test_a_run_at_once_that_gets_stuck_is_ended_and_said(
    session: Threads, monkeypatch: pytest.MonkeyPatch, rest_s: float
) -> None:
    """The watchdog ends it from its own thread; the caller gets the error, even if that thread has not set it yet."""
    monkeypatch.setattr(running_jobs, "stuck_after_s", lambda predicted_ms: 0.05)
    ended = threading.Event()
    monkeypatch.setattr(session, "run", lambda *_: ended.wait(60) and {"y": X["x"]})
    monkeypatch.setattr(session, "stop_run", lambda *_: (ended.set(), time.sleep(rest_s)))
    scheduler = scheduler_of(session, 1.0)
    with pytest.raises(StuckError):
        scheduler.run_or_queue(Request(X))
    assert ended.is_set()
    scheduler.close()


class Asked(ElasticPolicy):
    """Counts the decisions that it makes and the runs that it is told of."""

    decisions = runs = 0

    def choose(self, *arguments: Any) -> Any:
        self.decisions += 1
        return super().choose(*arguments)

    def observe(self, *arguments: Any) -> None:
        self.runs += 1
        super().observe(*arguments)


class Clock:
    """Stands still, but for the runs of a session that moves it."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


class Timed(Threads):
    """Each run takes `run_ms` of the clock."""

    def __init__(self, like: Any, clock: Clock) -> None:
        super().__init__(like)
        self.clock, self.run_ms = clock, PROFILED_MS[-1]

    def run(self, inputs: dict[str, np.ndarray], level: int) -> dict[str, np.ndarray]:
        self.clock.now_s += self.run_ms / 1e3
        return super().run(inputs, level)


@pytest.fixture
def settled(rig: Callable[..., Any]) -> Any:
    """A scheduler whose policy has just decided about a request, its session and its policy."""
    clock = Clock()
    session = Timed(rig().session, clock)
    profile = LatencyProfile((1,), [[ms] for ms in PROFILED_MS])
    policy = Asked(profile)
    scheduler = Scheduler(session, profile, policy, default_slo_ms=1000.0, at_once_ms=1.0, clock=clock)
    scheduler.submit(Request(X)).result(0)
    assert (policy.decisions, policy.runs) == (1, 1)
    yield scheduler, session, policy
    scheduler.close()


def test_a_decision_stands_for_requests_with_nothing_to_choose(settled: Any) -> None:
    """The policy is asked again after a while; it is told of every arrival, and of the runs that it decided on."""
    scheduler, session, policy = settled
    for _ in range(20):
        assert scheduler.submit(Request(X)).result(0).level.index == 3
    assert (policy.decisions, policy.runs) == (1, 1)
    assert policy._arrivals._count == 21
    session.clock.now_s += 0.005
    scheduler.submit(Request(X)).result(0)
    assert (policy.decisions, policy.runs) == (2, 2)


@pytest.mark.parametrize(
    "other",
    [{"slo_ms": 2.8}, {"level": 1}, {"min_accuracy": 0.91}, {"inputs": {"x": np.ones((2, 3), np.float32)}}],
    ids=lambda fields: next(iter(fields)),
)
def test_a_decision_does_not_stand_for_another_kind_of_request(settled: Any, other: dict[str, Any]) -> None:
    """Little time, other levels, another batch."""
    scheduler, _, policy = settled
    scheduler.submit(Request(**{"inputs": X, **other})).result(0)
    assert policy.decisions == 2


def test_what_runs_at_once_counts_for_its_client(settled: Any) -> None:
    """The client's share of the queue depends on it."""
    scheduler, _, _ = settled
    for _ in range(3):
        scheduler.submit(Request(X, client="one")).result(0)
    assert scheduler._queue.shares.of("one") == 3


def test_a_limit_ends_a_decision(settled: Any) -> None:
    scheduler, _, policy = settled
    scheduler.limit(1, "heat")
    response = scheduler.submit(Request(X)).result(0)
    assert (response.level.index, policy.decisions) == (1, 2)
    assert "capped by heat" in response.reason


def test_a_run_that_takes_longer_is_learned_and_ends_the_decision(settled: Any) -> None:
    scheduler, session, policy = settled
    session.run_ms *= 2
    scheduler.submit(Request(X)).result(0)
    assert (policy.decisions, policy.runs) == (1, 2)
    scheduler.submit(Request(X)).result(0)
    assert (policy.decisions, policy.runs) == (2, 3)
