"""Turns: of several models on one device, each change wakes the one whose turn it is, and none waits in vain."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from fake_sessions import GatedSession

from nested_sparse.errors import DeadlineError
from nested_sparse.runtime.policy import Waiting
from nested_sparse.runtime.policy.elastic import ElasticPolicy
from nested_sparse.runtime.profiling.profile import LatencyProfile
from nested_sparse.runtime.scheduling.device import Device
from nested_sparse.runtime.scheduling.request import Request, Response
from nested_sparse.runtime.scheduling.scheduler import Scheduler

X = {"x": np.ones((1, 3), np.float32)}


@dataclass
class Model:
    """A tenant with a queue of deadlines, which counts how often it was woken."""

    deadlines_s: list[float]
    priority: int = 0
    woken: int = 0

    def next_due(self) -> tuple[int, float] | None:
        return (0, min(self.deadlines_s)) if self.deadlines_s else None

    def waiting(self) -> list[Waiting]:
        return []

    def tighten_deadline(self, left_ms: float) -> None:
        raise AssertionError("no run is under way")

    def usual_ms(self, waiting: Waiting) -> float:
        return 1.0

    def wake(self) -> None:
        self.woken += 1


def woken(models: list[Model], change: Callable[[], Any]) -> list[int]:
    """How often `change` wakes each model."""
    for model in models:
        model.woken = 0
    change()
    return [model.woken for model in models]


def test_a_change_wakes_the_model_that_is_next_alone() -> None:
    """By priority, then by deadline, then by the order in which they joined; none while no slot is free."""
    models = [Model([5.0]), Model([3.0]), Model([3.0]), Model([])]
    device = Device()
    for model in models:
        device.join(model)
    assert woken(models, device.wake) == [0, 1, 0, 0]
    assert [device.is_turn_of(model) for model in models] == [False, True, False, False]
    models[0].priority = 1
    assert woken(models, device.wake) == [1, 0, 0, 0]
    device.begin("run", 1.0)
    assert woken(models, device.wake) == [0, 0, 0, 0]
    assert not any(device.is_turn_of(model) for model in models)
    assert woken(models, lambda: device.end("run")) == [1, 0, 0, 0]
    assert woken(models, lambda: device.leave(models[0])) == [0, 1, 0, 0]
    for model in models:
        model.deadlines_s.clear()
    assert woken(models, device.wake) == [0, 0, 0, 0]


class Several:
    """Models on one device, each a scheduler with threads and a session that waits for its gate."""

    def __init__(self, session: Callable[[], GatedSession], slots: int, workers: tuple[int, ...]) -> None:
        self.device = Device(slots)
        self.sessions = [session() for _ in workers]
        profile = LatencyProfile((1,), [[0.01]] * len(self.sessions[0].levels))
        self.models = [
            Scheduler(each, profile, ElasticPolicy(profile), default_slo_ms=60_000.0, workers=count, device=self.device)
            for each, count in zip(self.sessions, workers, strict=True)
        ]

    def close(self) -> None:
        for session, model in zip(self.sessions, self.models, strict=True):
            session.gate.release(10_000)
            model.close(grace_s=20.0)


@pytest.fixture
def several(rig: Callable[..., Any]) -> Iterator[Callable[..., Several]]:
    made: list[Several] = []

    def make(slots: int, workers: tuple[int, ...]) -> Several:
        made.append(Several(lambda: GatedSession(rig().session), slots, workers))
        return made[-1]

    yield make
    for each in made:
        each.close()


def test_a_model_that_takes_its_turn_wakes_the_next_one(several: Callable[..., Several]) -> None:
    """Two slots get free before a worker wakes. The first model takes one of them, and the second has the other."""
    both = several(2, (1, 1))
    with both.device.lock:
        for run in ("a", "b"):
            both.device.begin(run, 0.0)
        futures = [model.submit(Request(X)) for model in both.models]
        for run in ("a", "b"):
            both.device.end(run)
    for session in both.sessions:
        assert session.entered.acquire(timeout=20)  # both are inside at once
    for session in both.sessions:
        session.gate.release()
    assert all(future.result(20) for future in futures)


def cancelled(model: Scheduler, future: Future[Response]) -> None:
    assert future.cancel()


def overdue(model: Scheduler, future: Future[Response]) -> None:
    (job,) = model._queue.jobs()
    model._on_due(job)
    assert isinstance(future.exception(0), DeadlineError)


@pytest.mark.parametrize("leave", [cancelled, overdue])
def test_a_model_whose_request_leaves_wakes_the_next_one(
    several: Callable[..., Several], leave: Callable[[Scheduler, Future[Response]], None]
) -> None:
    """The slot gets free, and the first model's request leaves before its worker wakes."""
    both = several(1, (1, 1))
    with both.device.lock:
        both.device.begin("a", 0.0)
        first, second = (model.submit(Request(X)) for model in both.models)
        both.device.end("a")
        leave(both.models[0], first)
    assert both.sessions[1].entered.acquire(timeout=20)
    both.sessions[1].gate.release()
    assert second.result(20)


def test_a_change_of_priority_wakes_the_model_that_is_next_now(several: Callable[..., Several]) -> None:
    """The first model's worker sees that it is not its turn any more."""
    both = several(1, (1, 1))
    with both.device.lock:
        both.device.begin("a", 0.0)
        futures = [model.submit(Request(X)) for model in both.models]
        both.device.end("a")
        both.models[1].change(default_slo_ms=60_000.0, priority=1)
    assert both.sessions[1].entered.acquire(timeout=20)
    assert not both.sessions[0].entered.acquire(timeout=0)
    for session in both.sessions:
        session.gate.release()
    assert all(future.result(20) for future in futures)


def test_a_model_that_closes_still_gets_its_turn(several: Callable[..., Several]) -> None:
    """close() waits beside the worker. The worker is woken when the slot gets free, and close() when it has begun."""
    one = several(1, (1,))
    (model,), (session,) = one.models, one.sessions
    session.gate.release()
    with one.device.lock:
        one.device.begin("a", 0.0)
        future = model.submit(Request(X))
    closer = threading.Thread(target=model.close, kwargs={"grace_s": 3600.0})
    closer.start()
    while not model._closing:
        time.sleep(0.01)
    time.sleep(0.1)  # both wait again
    with one.device.lock:
        one.device.end("a")
    assert future.result(20)
    closer.join(20)
    assert not closer.is_alive()


@pytest.mark.parametrize(("slots", "workers"), [(1, (1, 1, 1)), (2, (1, 2, 1)), (3, (1, 1, 2))])
def test_no_request_waits_in_vain(several: Callable[..., Several], slots: int, workers: tuple[int, ...]) -> None:
    """Requests of all models, some short of time, some cancelled, while priorities change: each of them ends."""
    all_of_them = several(slots, workers)
    for session in all_of_them.sessions:
        session.gate.release(10_000)
    futures: list[Future[Response]] = []

    def client(number: int) -> None:
        draw = random.Random(number)
        for _ in range(60):
            model = draw.choice(all_of_them.models)
            chance = draw.random()
            future = model.submit(Request(X, slo_ms=5.0 if chance < 0.3 else 60_000.0))
            futures.append(future)
            if chance > 0.7:
                future.cancel()
            if chance > 0.95:
                model.change(default_slo_ms=60_000.0, priority=draw.randrange(3))
            time.sleep(draw.random() * 2e-4)

    threads = [threading.Thread(target=client, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(futures) == 240
    for future in futures:
        if not future.cancelled():
            future.exception(10)  # raises TimeoutError where it still waits
    assert all(model.stats().queue_length == 0 for model in all_of_them.models)
